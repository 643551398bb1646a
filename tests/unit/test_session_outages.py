"""What stays true of sessions while their store is away, and after."""

from __future__ import annotations

import pytest
from tests.sessions import ANN, MINUTE, World

from cachepolicy_runtime.session import (
    SessionsUnavailable,
    new_id,
)
from cachepolicy_runtime.session_copies import SERVES_MS, Copies, Copy
from cachepolicy_runtime.sessions import CookieChange


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
