"""Changes of a session that lose no change of another request."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.sessions import ANN, MINUTE, World

from cachepolicy_runtime.session import (
    SessionConflict,
    SessionError,
    SessionsUnavailable,
    SessionTooLarge,
)
from cachepolicy_runtime.sessions import Sessions
from cachepolicy_runtime.store.port import (
    SessionSaved,
    SessionWrite,
)


async def test_a_flash_of_changes_over_all_replicas_loses_none() -> None:
    """Each is made again on what another one had stored first."""
    world = World()
    replicas = [world.replica() for _ in range(4)]
    cookie = await world.started(replicas[0], n=0)

    def add(values: dict[str, Any]) -> None:
        values["n"] += 1

    async def request(replica: Sessions) -> None:
        session = await replica.open(world.policy, cookie)
        await asyncio.sleep(0)
        await replica.update(session, add)
        assert session["n"] >= 1
        assert await replica.commit(world.policy, session) is None

    await asyncio.gather(*(request(replica) for replica in replicas * 25))
    assert await world.seen(world.replica(), cookie) == {"n": 100}
    assert sum(replica.counts.retried for replica in replicas) > 0
    assert sum(replica.counts.conflicts for replica in replicas) == 0


async def test_an_update_may_return_another_content_and_an_equal_one_costs_no_write() -> None:
    world = World()
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    session = await replica.open(world.policy, cookie)
    await replica.update(session, lambda values: {"b": values["a"] + 1})
    assert dict(session) == {"b": 2}
    world.calls.clear()
    await replica.update(session, dict)
    assert await replica.commit(world.policy, session) is None
    assert world.calls == []
    assert await world.seen(world.replica(), cookie) == {"b": 2}


async def test_an_update_of_a_new_session_stores_it_and_the_answer_tells_its_id() -> None:
    world = World()
    replica = world.replica()
    session = await replica.open(world.policy, None)
    await replica.update(session, lambda values: {"a": 1})
    change = await replica.commit(world.policy, session)
    assert change is not None
    assert await world.seen(world.replica(), str(change.value)) == {"a": 1}


async def test_an_update_with_a_change_of_the_id_does_both_at_once() -> None:
    world = World()
    replica, other = world.replica(), world.replica()
    cookie = await world.started(replica, n=1)
    session = await replica.open(world.policy, cookie)
    await world.change(other, cookie, n=2)
    session.bind(ANN)
    await replica.update(session, lambda values: {"n": values["n"] + 1})
    change = await replica.commit(world.policy, session)
    assert change is not None
    assert await world.seen(other, cookie) == {}
    assert await world.seen(other, str(change.value)) == {"n": 3}
    assert len(await other.list(ANN)) == 1


async def test_an_update_gives_up_when_the_session_is_ended_or_others_are_always_faster() -> None:
    world = World()
    replica, other = world.replica(), world.replica()
    cookie = await world.started(replica, n=0)
    session = await replica.open(world.policy, cookie)
    tries = 0

    def overtaken(values: dict[str, Any]) -> None:
        nonlocal tries
        tries += 1
        values["n"] = tries

    class Rival(World):
        """Changes the session before each save."""

        async def save(self, key: str, write: SessionWrite) -> SessionSaved:
            current = await world._inner.load(key, idle_ms=MINUTE, absolute_ms=MINUTE)
            if current.record is not None:
                newer = replace(write, expected_version=current.record.version, data=b"{}")
                await world._inner.save(key, newer)
            return await world._inner.save(key, write)

    rival = Rival()
    rival._inner = world._inner
    replica.use(rival)
    with pytest.raises(SessionConflict, match="try again"):
        await replica.update(session, overtaken, attempts=3)
    assert tries == 3
    await other.revoke_all(ANN)
    gone = await other.open(world.policy, cookie)
    gone.destroy()
    await other.commit(world.policy, gone)
    with pytest.raises(SessionConflict, match="ended meanwhile"):
        await replica.update(session, overtaken)


async def test_an_update_refuses_what_it_would_lose_and_what_is_too_large() -> None:
    world = World(maxBytes="1Ki")
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    session = await replica.open(world.policy, cookie)
    with pytest.raises(SessionTooLarge, match=r"maxBytes allows 1024"):
        await replica.update(session, lambda values: {"a": "x" * 2000})
    session["a"] = 2
    with pytest.raises(SessionError, match="changes that are not saved yet"):
        await replica.update(session, lambda values: None)
    assert await world.seen(world.replica(), cookie) == {"a": 1}


@pytest.mark.parametrize("on_failure", ["ReadOnly", "Local", "Deny"])
async def test_an_update_in_an_outage_is_what_the_policy_says(on_failure: str) -> None:
    world = World(on_failure)
    replica = world.replica()
    cookie = await world.started(replica, n=1)
    session = await replica.open(world.policy, cookie)
    world.up = False
    if on_failure == "Local":
        sessions = [session, await replica.open(world.policy, cookie)]
        for each in sessions:
            await replica.update(each, lambda values: {"n": values["n"] + 1})
        world.up = True
        assert await world.seen(replica, cookie) == {"n": 3}
        assert await world.seen(world.replica(), cookie) == {"n": 3}
    else:
        with pytest.raises(SessionsUnavailable, match="cannot be changed"):
            await replica.update(session, lambda values: {"n": 2})
