"""Sessions in a request's life: what is saved when, and that no id opens what it should not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.sessions import ANN, BOB, World

from cachepolicy.identity import Identity
from cachepolicy_runtime.session import (
    Session,
    SessionConflict,
    SessionError,
    SessionTooLarge,
    new_id,
)
from cachepolicy_runtime.sessions import CookieChange


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


# --- fixation and replay


async def test_an_id_from_before_the_log_in_opens_nothing_whoever_planted_it() -> None:
    """Fixation: the attacker's own valid id, in the victim's browser when the victim logs in."""
    world = World()
    replica = world.replica()
    planted = await world.started(replica, page=1)
    victim = await world.replica().open(world.policy, planted)
    victim.bind(ANN)
    victim["user"] = "ann"
    own = await world.replica().commit(world.policy, victim)
    assert own is not None
    for anywhere in (replica, world.replica()):
        assert await world.seen(anywhere, planted) == {}
        taken = await world.change(anywhere, planted, x=1)
        assert taken is not None
        assert taken.value not in (planted, own.value)
    assert await world.seen(world.replica(), str(own.value)) == {"page": 1, "user": "ann"}


async def test_a_request_that_began_under_the_old_id_neither_revives_it_nor_changes_the_new_one() -> None:
    world = World()
    slow, quick = world.replica(), world.replica()
    cookie = await world.started(slow, a=1)
    late = await slow.open(world.policy, cookie)
    session = await quick.open(world.policy, cookie)
    session.rotate()
    change = await quick.commit(world.policy, session)
    assert change is not None
    late["a"] = "stolen"
    assert await slow.commit(world.policy, late) is None
    assert await world.seen(slow, cookie) == {}
    assert await world.seen(slow, str(change.value)) == {"a": 1}


async def test_a_log_in_that_another_request_overtook_is_an_error_and_not_silently_lost() -> None:
    world = World()
    one, two = world.replica(), world.replica()
    cookie = await world.started(one, a=1)
    login = await one.open(world.policy, cookie)
    await world.change(two, cookie, a=2)
    login.bind(ANN)
    with pytest.raises(SessionConflict, match="nothing was saved, try again"):
        await one.commit(world.policy, login)
    assert await world.seen(one, cookie) == {"a": 2}


@pytest.mark.parametrize("on_failure", ["ReadOnly", "Local", "Deny"])
async def test_a_destroyed_id_that_is_sent_again_opens_nothing_during_and_after_an_outage(
    on_failure: str,
) -> None:
    """Replay by who has stolen the cookie, on a replica that had seen it before; also where Redis lost all."""
    world = World(on_failure)
    replica = world.replica()
    cookie = await world.started(replica, a=1)
    await world.seen(replica, cookie)
    session = await replica.open(world.policy, cookie)
    session.destroy()
    await replica.commit(world.policy, session)
    world.up = False
    if on_failure != "Deny":
        assert await world.seen(replica, cookie) == {}
    world.lose_everything()
    world.up = True
    assert await world.seen(replica, cookie) == {}
    change = await world.change(replica, cookie, b=1)
    assert change is not None
    assert change.value != cookie
