"""Sessions in a request's life, and what stays true while their store is away."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy.sessions import Sessions as SessionRules
from cachepolicy_runtime.session import Session, SessionError, SessionsUnavailable, SessionTooLarge, new_id
from cachepolicy_runtime.session_copies import SERVES_MS, Copies, Copy
from cachepolicy_runtime.sessions import CookieChange, SessionPolicy, Sessions
from cachepolicy_runtime.store.memory import MemorySessionStore
from cachepolicy_runtime.store.port import (
    SessionEntry,
    SessionRead,
    SessionSaved,
    SessionWrite,
    StoreUnavailable,
)

ANN, BOB = Identity("acme", "ann"), Identity("acme", "bob")
MINUTE = 60_000


class World:
    """A store that can go away or lose everything, shared by as many replicas as a test wants."""

    def __init__(self, on_failure: str = "ReadOnly", **rules: object) -> None:
        self.now = 1_000_000
        self.up = True
        self.calls: list[str] = []
        self.lose_everything()
        self.policy = SessionPolicy(
            KeyLayout("masterclaw/core"),
            SessionRules.model_validate({"onStoreFailure": on_failure, **rules}),
        )

    def lose_everything(self) -> None:
        self._inner = MemorySessionStore(lambda: self.now)

    def replica(self) -> Sessions:
        return Sessions(self, lambda: self.now, policy=lambda: self.policy)

    def _ask(self, verb: str) -> MemorySessionStore:
        if not self.up:
            raise StoreUnavailable("state", "connection refused")
        self.calls.append(verb)
        return self._inner

    async def load(self, key: str, *, idle_ms: int, absolute_ms: int) -> SessionRead:
        return await self._ask("load").load(key, idle_ms=idle_ms, absolute_ms=absolute_ms)

    async def save(self, key: str, write: SessionWrite) -> SessionSaved:
        self.saved_as = key
        return await self._ask("save").save(key, write)

    async def destroy(self, keys: Sequence[str], *, owner: str | None = None) -> int:
        return await self._ask("destroy").destroy(keys, owner=owner)

    async def destroy_owned(self, index: str, *, keep: str | None = None) -> int:
        return await self._ask("destroy_owned").destroy_owned(index, keep=keep)

    async def owned(self, index: str, *, idle_ms: int, absolute_ms: int) -> list[SessionEntry]:
        return await self._ask("owned").owned(index, idle_ms=idle_ms, absolute_ms=absolute_ms)

    async def started(self, replica: Sessions, owner: Identity | None = None, **values: object) -> str:
        """A stored session with these values; returns its cookie."""
        session = await replica.open(self.policy, None)
        session.update(values)
        session.owner = owner
        change = await replica.commit(self.policy, session)
        assert change is not None
        assert change.value is not None
        return change.value

    async def seen(self, replica: Sessions, cookie: str) -> dict[str, object]:
        return dict(await replica.open(self.policy, cookie))

    async def change(self, replica: Sessions, cookie: str, **values: object) -> CookieChange | None:
        session = await replica.open(self.policy, cookie)
        session.update(values)
        return await replica.commit(self.policy, session)


async def test_a_session_is_the_same_on_every_replica() -> None:
    world = World()
    cookie = await world.started(world.replica(), cart=[1, 2])
    assert await world.seen(world.replica(), cookie) == {"cart": [1, 2]}


async def test_the_store_never_learns_the_id() -> None:
    world = World()
    cookie = await world.started(world.replica(), a=1)
    assert len(cookie) == 43
    assert cookie not in world.saved_as
    assert len(world.saved_as.rpartition(":")[2]) == 64


async def test_a_new_session_that_stays_empty_costs_nothing_and_sets_no_cookie() -> None:
    world = World()
    replica = world.replica()
    session = await replica.open(world.policy, None)
    assert session.get("a") is None
    assert await replica.commit(world.policy, session) is None
    assert world.calls == []


async def test_an_unchanged_session_costs_one_read_and_no_write() -> None:
    world = World()
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    world.calls.clear()
    session = await replica.open(world.policy, cookie)
    session["a"] = session["a"]
    assert await replica.commit(world.policy, session) is None
    assert world.calls == ["load"]


async def test_a_value_changed_in_place_is_saved() -> None:
    world = World()
    replica = world.replica()
    cookie = await world.started(replica, cart=[1])
    session = await replica.open(world.policy, cookie)
    session["cart"].append(2)
    assert await replica.commit(world.policy, session) is None
    assert await world.seen(world.replica(), cookie) == {"cart": [1, 2]}


@pytest.mark.parametrize("cookie", ["", "x", "a" * 42, "a" * 44, "é" * 43, "../" + "a" * 40, "a" * 42 + "\n"])
async def test_a_cookie_that_was_not_issued_here_is_ignored_without_asking_the_store(cookie: str) -> None:
    world = World()
    assert (await world.replica().open(world.policy, cookie)).is_new
    assert world.calls == []


async def test_an_id_that_is_well_formed_and_unknown_is_not_taken_over() -> None:
    world = World()
    replica, planted = world.replica(), new_id()
    change = await world.change(replica, planted, user="victim")
    assert change is not None
    assert change.value != planted


async def test_of_two_requests_that_change_a_session_the_first_wins_and_the_second_is_counted() -> None:
    world = World()
    one, two = world.replica(), world.replica()
    cookie = await world.started(one, a=0)
    first, second = await one.open(world.policy, cookie), await two.open(world.policy, cookie)
    first["a"], second["a"] = 1, 2
    await one.commit(world.policy, first)
    await two.commit(world.policy, second)
    assert await world.seen(two, cookie) == {"a": 1}
    assert two.counts.conflicts == 1


async def test_logging_in_gives_another_id_and_ends_the_old_one() -> None:
    world = World()
    replica = world.replica()
    cookie = await world.started(replica, cart=1)
    session = await replica.open(world.policy, cookie)
    session.bind(ANN)
    change = await replica.commit(world.policy, session)
    assert change is not None
    assert change.value not in (None, cookie)
    assert await world.seen(replica, cookie) == {}
    assert await world.seen(world.replica(), str(change.value)) == {"cart": 1}


async def test_a_destroyed_session_is_gone_everywhere_and_its_cookie_is_removed() -> None:
    world = World()
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    session = await replica.open(world.policy, cookie)
    session.destroy()
    assert await replica.commit(world.policy, session) == CookieChange(None)
    assert await world.seen(replica, cookie) == {}
    assert await world.seen(world.replica(), cookie) == {}


async def test_a_request_under_way_does_not_bring_back_a_session_destroyed_meanwhile() -> None:
    world = World()
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    slow, quick = await replica.open(world.policy, cookie), await replica.open(world.policy, cookie)
    quick.destroy()
    await replica.commit(world.policy, quick)
    slow["a"] = 2
    assert await replica.commit(world.policy, slow) is None
    assert await world.seen(replica, cookie) == {}


async def test_all_sessions_of_a_user_end_and_nobody_elses() -> None:
    world = World()
    replica = world.replica()
    ann, more, bob = [await world.started(replica, owner, a=1) for owner in (ANN, ANN, BOB)]
    assert await world.replica().revoke_all(ANN) == 2
    assert [await world.seen(replica, cookie) for cookie in (ann, more, bob)] == [{}, {}, {"a": 1}]
    with pytest.raises(ValueError, match="with a user"):
        await replica.revoke_all(Identity("acme"))


async def test_a_change_by_a_request_without_owner_keeps_the_owner() -> None:
    world = World()
    replica = world.replica()
    cookie = await world.started(replica, ANN, a=1)
    await world.change(world.replica(), cookie, a=2)
    assert await replica.revoke_all(ANN) == 1
    assert await world.seen(replica, cookie) == {}


@pytest.mark.parametrize("value", [datetime.now(UTC), {1, 2}, object(), b"bytes", {1: "a"}])
async def test_only_json_is_kept_and_the_key_of_anything_else_is_named(value: object) -> None:
    session = Session(None)
    session["fine"], session["bad"] = 1, value
    with pytest.raises(SessionError, match="value under 'bad' is not JSON"):
        session.changed_content()


async def test_a_session_that_is_too_large_is_refused_with_both_sizes() -> None:
    world = World(maxBytes="1Ki")
    replica = world.replica()
    session = await replica.open(world.policy, None)
    session["a"] = "x" * 2000
    with pytest.raises(SessionTooLarge, match=r"holds 2008 bytes and sessions\.maxBytes allows 1024"):
        await replica.commit(world.policy, session)


def test_a_session_shows_neither_its_id_nor_its_content() -> None:
    cookie = new_id()
    assert cookie not in repr(Session(cookie, b'{"password":"x"}'))
    assert "password" not in repr(Session(cookie, b'{"password":"x"}'))


# --- the store is away


async def test_read_only_serves_a_copy_and_refuses_changes() -> None:
    world = World("ReadOnly")
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    world.up = False
    session = await replica.open(world.policy, cookie)
    assert dict(session) == {"a": 1}
    assert session.read_only
    assert await replica.commit(world.policy, session) is None
    session["a"] = 2
    with pytest.raises(SessionsUnavailable, match="cannot be changed while their store is away"):
        await replica.commit(world.policy, session)
    assert replica.counts.copies_served == 1


async def test_a_copy_serves_for_five_minutes_after_the_store_last_confirmed_it() -> None:
    world = World("ReadOnly")
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    world.up = False
    world.now += SERVES_MS - 1
    assert await world.seen(replica, cookie) == {"a": 1}
    world.now += 1
    assert await world.seen(replica, cookie) == {}


async def test_a_replica_that_never_saw_the_session_shows_none_and_creates_none() -> None:
    world = World("ReadOnly")
    cookie = await world.started(world.replica(), a=1)
    world.up = False
    other = world.replica()
    session = await other.open(world.policy, cookie)
    assert dict(session) == {}
    session["a"] = 2
    with pytest.raises(SessionsUnavailable):
        await other.commit(world.policy, session)


async def test_deny_refuses_and_a_request_without_cookie_still_passes() -> None:
    world = World("Deny")
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    world.up = False
    with pytest.raises(SessionsUnavailable, match="cannot be read"):
        await replica.open(world.policy, cookie)
    assert (await replica.open(world.policy, None)).is_new


async def test_local_goes_on_in_the_replica_and_brings_the_changes_back() -> None:
    world = World("Local")
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    world.up = False
    for value in (2, 3):
        assert await world.change(replica, cookie, a=value) is None
    fresh = await world.started(replica, b=1)
    world.up = True
    assert await world.seen(replica, cookie) == {"a": 3}
    assert await world.seen(replica, fresh) == {"b": 1}
    assert await world.seen(world.replica(), cookie) == {"a": 3}
    assert await world.seen(world.replica(), fresh) == {"b": 1}


async def test_a_change_that_began_without_the_store_is_saved_when_it_is_back_meanwhile() -> None:
    world = World("Local")
    replica = world.replica()
    world.up = False
    cookie = await world.started(replica, a=1)
    session = await replica.open(world.policy, cookie)
    world.up = True
    session["a"] = 2
    await replica.commit(world.policy, session)
    assert await world.seen(world.replica(), cookie) == {"a": 2}


async def test_what_was_stored_meanwhile_wins_over_a_local_change_and_is_counted() -> None:
    world = World("Local")
    here, there = world.replica(), world.replica()
    cookie = await world.started(here, a=1)
    world.up = False
    await world.change(here, cookie, a="local")
    world.up = True
    await world.change(there, cookie, a="stored")
    assert await world.seen(here, cookie) == {"a": "stored"}
    assert here.counts.conflicts == 1


@pytest.mark.parametrize("on_failure", ["ReadOnly", "Local", "Deny"])
async def test_a_session_destroyed_in_an_outage_stays_away_here_and_is_destroyed_first_thing_after(
    on_failure: str,
) -> None:
    world = World(on_failure)
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    session = await replica.open(world.policy, cookie)
    world.up = False
    session.destroy()
    assert await replica.commit(world.policy, session) == CookieChange(None)
    if on_failure != "Deny":
        assert await world.seen(replica, cookie) == {}
    world.up = True
    world.calls.clear()
    assert await world.seen(replica, cookie) == {}
    assert world.calls[0] == "destroy"
    assert await world.seen(world.replica(), cookie) == {}


async def test_a_user_destroyed_in_an_outage_has_no_session_left_after_it() -> None:
    world = World("Local")
    replica = world.replica()
    cookie = await world.started(replica, ANN, a=1)
    elsewhere = await world.started(world.replica(), ANN, a=1)
    world.up = False
    await world.change(replica, cookie, a=2)
    with pytest.raises(SessionsUnavailable, match="ends everywhere as soon as the store is back"):
        await replica.revoke_all(ANN)
    assert await world.seen(replica, cookie) == {}
    world.up = True
    await replica.settle()
    assert await world.seen(world.replica(), cookie) == {}
    assert await world.seen(world.replica(), elsewhere) == {}


async def test_an_id_rotated_in_an_outage_does_not_work_any_more_after_it() -> None:
    world = World("Local")
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    world.up = False
    session = await replica.open(world.policy, cookie)
    session.rotate()
    change = await replica.commit(world.policy, session)
    assert change is not None
    world.up = True
    assert await world.seen(replica, str(change.value)) == {"a": 1}
    assert await world.seen(world.replica(), cookie) == {}


async def test_the_same_epoch_and_no_session_means_destroyed_and_the_copy_goes() -> None:
    world = World("Local")
    here, there = world.replica(), world.replica()
    cookie = await world.started(here, a=1)
    world.up = False
    await world.change(here, cookie, a=2)
    world.up = True
    session = await there.open(world.policy, cookie)
    session.destroy()
    await there.commit(world.policy, session)
    assert await world.seen(here, cookie) == {}
    world.up = False
    assert await world.seen(here, cookie) == {}


@pytest.mark.parametrize("on_failure", ["ReadOnly", "Local", "Deny"])
async def test_a_new_epoch_means_lost_and_the_session_is_made_again_with_its_age(on_failure: str) -> None:
    world = World(on_failure, idleTimeout="30m", absoluteTimeout="40m")
    replica = world.replica()
    cookie = await world.started(replica, ANN, a=1)
    world.now += 25 * MINUTE
    world.lose_everything()
    assert await world.seen(replica, cookie) == {"a": 1}
    assert replica.counts.recreated == 1
    assert await world.seen(world.replica(), cookie) == {"a": 1}
    world.now += 16 * MINUTE
    assert await world.seen(replica, cookie) == {}


async def test_an_expired_session_is_not_made_again() -> None:
    world = World("ReadOnly")
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    world.now += 31 * MINUTE
    world.lose_everything()
    assert await world.seen(replica, cookie) == {}


async def test_a_copy_does_not_outlive_the_idle_time() -> None:
    world = World("Local", idleTimeout="2m")
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    world.up = False
    world.now += 2 * MINUTE
    assert await world.seen(replica, cookie) == {}


def test_copies_are_bounded_by_their_bytes() -> None:
    copies = Copies(max_bytes=3000)
    for number in range(10):
        copies.put(str(number), Copy(b"x", 1, 0, 0, 0))
        copies.put(str(number), Copy(b"x" * 400, 1, 0, 0, 0))
    assert [number for number in range(10) if copies.get(str(number))] == [7, 8, 9]


def test_ids_are_43_characters_of_base64url_and_never_the_same() -> None:
    ids = {new_id() for _ in range(1000)}
    assert {len(each) for each in ids} == {43}
    assert len(ids) == 1000
