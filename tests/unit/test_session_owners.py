"""The sessions of a user: seen, and ended from elsewhere, also while the store is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from tests.sessions import ANN, BOB, MINUTE, World

from cachepolicy.identity import Identity
from cachepolicy_runtime.session import (
    MAX_LABEL,
    SessionError,
    SessionsUnavailable,
)
from cachepolicy_runtime.session_copies import Tombstones
from cachepolicy_runtime.sessions import Sessions


async def test_a_user_sees_its_sessions_with_labels_and_times() -> None:
    world = World(idleTimeout="30m", absoluteTimeout="40m")
    replica = world.replica()
    cookies = []
    for label in ("phone", "x" * 1000):
        session = await replica.open(world.policy, None)
        session["a"] = 1
        session.bind(ANN, label=label)
        change = await replica.commit(world.policy, session)
        assert change is not None
        cookies.append(str(change.value))
        world.now += 10 * MINUTE
    await world.seen(replica, cookies[0])
    newest, oldest = await world.replica().list(ANN)
    assert (oldest.label, newest.label) == ("phone", "x" * MAX_LABEL)
    assert oldest.last_used - oldest.created == timedelta(minutes=20)
    assert oldest.ends - oldest.created == timedelta(minutes=40)
    assert newest.ends - newest.last_used == timedelta(minutes=30)
    current = await replica.open(world.policy, cookies[0])
    assert current.handle == oldest.handle
    assert cookies[0] not in repr(oldest)
    with pytest.raises(ValueError, match="with a user"):
        await replica.list(Identity("acme"))


async def test_a_user_ends_one_session_by_its_handle_and_nobody_elses() -> None:
    world = World()
    replica = world.replica()
    ann, bob = [await world.started(replica, owner, a=1) for owner in (ANN, BOB)]
    (his,) = await replica.list(BOB)
    (hers,) = await replica.list(ANN)
    assert [await replica.revoke(ANN, handle) for handle in (his.handle, "x", "A" * 64, "0" * 64)] == [
        False
    ] * 4
    assert await world.seen(replica, bob) == {"a": 1}
    assert await world.replica().revoke(ANN, hers.handle)
    assert [await world.seen(each, ann) for each in (replica, world.replica())] == [{}, {}]
    assert not await replica.revoke(ANN, hers.handle)


async def test_all_sessions_but_the_current_one_end() -> None:
    world = World()
    replica = world.replica()
    here, there = [await world.started(replica, ANN, a=1) for _ in range(2)]
    current = await replica.open(world.policy, here)
    assert await replica.revoke_all(ANN, except_current=current) == 1
    assert [await world.seen(world.replica(), cookie) for cookie in (here, there)] == [{"a": 1}, {}]
    assert replica.counts.revoked == 1


async def test_a_session_that_was_only_read_here_keeps_owner_and_label_when_the_store_lost_it() -> None:
    """The replica that makes it again is not the one where the user logged in."""
    world = World()
    session = await world.replica().open(world.policy, None)
    session["a"] = 1
    session.bind(ANN, label="phone")
    change = await world.replica().commit(world.policy, session)
    assert change is not None
    reader = world.replica()
    await world.seen(reader, str(change.value))
    world.lose_everything()
    assert await world.seen(reader, str(change.value)) == {"a": 1}
    (listed,) = await reader.list(ANN)
    assert listed.label == "phone"
    assert await reader.revoke_all(ANN) == 1


@pytest.mark.parametrize("on_failure", ["ReadOnly", "Local"])
@pytest.mark.parametrize("way", ["one", "all", "others"])
async def test_what_is_ended_in_an_outage_is_an_error_ends_here_at_once_and_everywhere_after(
    on_failure: str, way: str
) -> None:
    """By a replica that had only read the session; the one that stays goes on."""
    world = World(on_failure)
    lost, here = [await world.started(world.replica(), ANN, a=1) for _ in range(2)]
    replica = world.replica()
    current = await replica.open(world.policy, here)
    handle = (await replica.open(world.policy, lost)).handle
    world.up = False
    with pytest.raises(SessionsUnavailable, match="cannot be listed"):
        await replica.list(ANN)
    ways: dict[str, Callable[[], Awaitable[object]]] = {
        "one": lambda: replica.revoke(ANN, str(handle)),
        "all": lambda: replica.revoke_all(ANN),
        "others": lambda: replica.revoke_all(ANN, except_current=current),
    }
    with pytest.raises(SessionsUnavailable, match="ends everywhere as soon as the store is back"):
        await ways[way]()
    stays = {} if way == "all" else {"a": 1}
    assert await world.seen(replica, lost) == {}
    assert await world.seen(replica, here) == stays
    world.up = True
    await replica.settle()
    assert await world.seen(world.replica(), lost) == {}
    assert await world.seen(world.replica(), here) == stays


async def test_ending_a_foreign_session_in_an_outage_ends_nothing() -> None:
    """Who owns a session that was never seen here is found out when the store is back."""
    world = World()
    bob = await world.started(world.replica(), BOB, a=1)
    handle = (await world.replica().open(world.policy, bob)).handle
    replica = world.replica()
    world.up = False
    with pytest.raises(SessionsUnavailable):
        await replica.revoke(ANN, str(handle))
    world.up = True
    await replica.settle()
    assert await world.seen(world.replica(), bob) == {"a": 1}


def test_what_is_to_go_without_condition_still_goes_when_it_is_asked_for_with_one() -> None:
    tombstones = Tombstones(max_entries=2)
    tombstones.add_index("all")
    tombstones.add_index("all", "kept")
    tombstones.add_key("key", "owner")
    tombstones.add_key("key")
    assert (dict(tombstones.indexes), dict(tombstones.keys)) == ({"all": None}, {"key": None})
    tombstones.add_key("b")
    tombstones.add_key("c")
    assert list(tombstones.keys) == ["b", "c"]


async def test_without_sessions_in_the_policy_there_is_nothing_to_list() -> None:
    with pytest.raises(SessionError, match="the policy has no sessions"):
        await Sessions(World()).list(ANN)
