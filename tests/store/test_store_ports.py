"""What every implementation of the four store ports does alike."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
from tests.servers import Server
from tests.stores import LAYOUT, STORE_KINDS, Stores, opened

from cachepolicy.identity import Identity
from cachepolicy.stamps import MAX_FIELDS, Scope, combine, newest, shapes_of
from cachepolicy_runtime.store import memory, redis_stores
from cachepolicy_runtime.store.port import (
    CacheItem,
    LimitCheck,
    RateState,
    SessionEntry,
    SessionRecord,
    SessionWrite,
    WindowRate,
)

MINUTE = 60_000
USER = LAYOUT.user_sessions(Identity("acme", "ann"))


@pytest.fixture(params=STORE_KINDS)
async def stores(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> AsyncIterator[Stores]:
    async with opened(request.param, servers) as found:
        yield found


def check(name: str, *rates: tuple[int, int], weight: int = 1) -> LimitCheck:
    return LimitCheck(
        tuple(
            WindowRate(LAYOUT.limit(name, window, ["tenant=acme"]), limit, window) for limit, window in rates
        ),
        weight,
    )


# --- limits


async def test_a_limit_admits_exactly_its_number_even_when_asked_at_once(stores: Stores) -> None:
    answers = await asyncio.gather(*(stores.limits.admit([check("l", (7, MINUTE))]) for _ in range(100)))
    assert sum(answer.admitted for answer in answers) == 7


async def test_remaining_counts_down_and_a_refusal_says_when_there_is_room(stores: Stores) -> None:
    first = await stores.limits.admit([check("l", (2, MINUTE))])
    await stores.limits.admit([check("l", (2, MINUTE))])
    refused = await stores.limits.admit([check("l", (2, MINUTE))])
    ((state,),) = first.states
    assert (first.admitted, state.remaining, state.retry_ms) == (True, 1, 0)
    assert MINUTE <= state.reset_ms <= MINUTE * 1.1
    ((state,),) = refused.states
    assert (refused.admitted, state.remaining) == (False, 0)
    assert MINUTE * 0.9 < state.retry_ms <= MINUTE * 1.1


async def test_room_comes_back_when_the_window_has_passed(stores: Stores) -> None:
    limit = check("l", (1, 200))
    assert (await stores.limits.admit([limit])).admitted
    refused = await stores.limits.admit([limit])
    assert not refused.admitted
    await asyncio.sleep(refused.states[0][0].retry_ms / 1000 + 0.005)
    assert (await stores.limits.admit([limit])).admitted


@pytest.mark.parametrize("narrow_first", [False, True])
async def test_a_request_refused_by_one_limit_burns_no_other(stores: Stores, narrow_first: bool) -> None:
    wide, narrow = check("wide", (10, MINUTE)), check("narrow", (1, MINUTE))
    both = [narrow, wide] if narrow_first else [wide, narrow]
    assert (await stores.limits.admit(both)).admitted
    for _ in range(3):
        assert not (await stores.limits.admit(both)).admitted
    assert (await stores.limits.admit([wide])).states[0][0].remaining == 8


async def test_all_rates_of_a_limit_have_to_hold(stores: Stores) -> None:
    limit = check("l", (5, MINUTE), (2, 60 * MINUTE))
    assert [(await stores.limits.admit([limit])).admitted for _ in range(3)] == [True, True, False]
    refused = await stores.limits.admit([limit])
    minute, hour = refused.states[0]
    assert (minute.remaining, minute.retry_ms) == (3, 0)
    assert hour.remaining == 0
    assert hour.retry_ms > 50 * MINUTE


async def test_a_weight_costs_as_many_units_and_one_above_the_limit_is_never_admitted(stores: Stores) -> None:
    assert (await stores.limits.admit([check("l", (10, MINUTE), weight=7)])).states[0][0].remaining == 3
    assert not (await stores.limits.admit([check("l", (10, MINUTE), weight=4)])).admitted
    assert (await stores.limits.admit([check("l", (10, MINUTE), weight=3)])).admitted
    never = await stores.limits.admit([check("empty", (10, MINUTE), weight=11)])
    assert not never.admitted
    ((state,),) = never.states
    assert (state.remaining, state.reset_ms) == (10, 0)
    assert state.retry_ms > 0


async def test_a_lowered_limit_leaves_nothing_and_never_less_than_nothing(stores: Stores) -> None:
    for _ in range(5):
        await stores.limits.admit([check("l", (5, MINUTE))])
    lowered = await stores.limits.admit([check("l", (2, MINUTE))])
    assert not lowered.admitted
    assert lowered.states[0][0].remaining == 0


async def test_callers_do_not_share_a_limit(stores: Stores) -> None:
    ours, theirs = (
        LimitCheck((WindowRate(key, 1, MINUTE),)) for key in ("masterclaw/core:l:a", "masterclaw/core:l:b")
    )
    assert (await stores.limits.admit([ours])).admitted
    assert (await stores.limits.admit([theirs])).admitted


async def test_states_come_in_the_order_asked(stores: Stores) -> None:
    answer = await stores.limits.admit([check("a", (5, MINUTE), (50, 2 * MINUTE)), check("b", (7, MINUTE))])
    assert [[state.remaining for state in states] for states in answer.states] == [[4, 49], [6]]
    assert isinstance(answer.states[0][0], RateState)


# --- sessions


def write(data: bytes = b"{}", version: int = 0, **more: object) -> SessionWrite:
    values = {"idle_ms": MINUTE, "absolute_ms": 60 * MINUTE, **more}
    return SessionWrite(data, version, **values)  # type: ignore[arg-type]  # keywords are the dataclass's own


async def load(stores: Stores, key: str, idle: int = MINUTE, absolute: int = 60 * MINUTE) -> bytes | None:
    read = await stores.sessions.load(key, idle_ms=idle, absolute_ms=absolute)
    return read.record.data if read.record else None


async def test_a_session_is_read_as_it_was_saved(stores: Stores) -> None:
    key, data = LAYOUT.session("a"), bytes(range(256))
    saved = await stores.sessions.save(key, write(data))
    read = await stores.sessions.load(key, idle_ms=MINUTE, absolute_ms=60 * MINUTE)
    assert (saved.saved, saved.version) == (True, 1)
    assert read.record is not None
    assert (read.record.data, read.record.version) == (data, 1)
    assert 0 <= read.record.age_ms < 5_000
    assert read.epoch == saved.epoch != ""


async def test_only_the_version_that_was_read_can_be_replaced(stores: Stores) -> None:
    key = LAYOUT.session("a")
    await stores.sessions.save(key, write(b"one"))
    assert (await stores.sessions.save(key, write(b"two", 1))).saved
    late = await stores.sessions.save(key, write(b"late", 1))
    assert (late.saved, late.version) == (False, 2)
    assert await load(stores, key) == b"two"


async def test_a_session_that_exists_is_not_created_and_one_that_is_gone_is_not_changed(
    stores: Stores,
) -> None:
    key = LAYOUT.session("a")
    await stores.sessions.save(key, write(b"one"))
    assert not (await stores.sessions.save(key, write(b"again"))).saved
    await stores.sessions.destroy([key])
    gone = await stores.sessions.save(key, write(b"two", 1))
    assert (gone.saved, gone.version) == (False, 0)
    assert await load(stores, key) is None


async def test_a_use_renews_the_idle_time_and_no_use_ends_the_session(stores: Stores) -> None:
    key = LAYOUT.session("a")
    await stores.sessions.save(key, write(b"x", idle_ms=400))
    for _ in range(3):
        await asyncio.sleep(0.2)
        assert await load(stores, key, idle=400) == b"x"
    await asyncio.sleep(0.5)
    assert await load(stores, key, idle=400) is None


async def test_no_use_carries_a_session_past_its_absolute_time(stores: Stores) -> None:
    key = LAYOUT.session("a")
    await stores.sessions.save(key, write(b"x", absolute_ms=300))
    assert await load(stores, key, absolute=300) == b"x"
    await asyncio.sleep(0.35)
    assert await load(stores, key, absolute=300) is None
    assert await load(stores, key) is None


async def test_a_shortened_absolute_time_ends_sessions_that_are_older(stores: Stores) -> None:
    key = LAYOUT.session("a")
    await stores.sessions.save(key, write(b"x", age_ms=10 * MINUTE))
    assert await load(stores, key, absolute=5 * MINUTE) is None
    assert await load(stores, key) is None


async def test_rotation_moves_the_session_keeps_its_age_and_leaves_nothing_behind(stores: Stores) -> None:
    old, new = LAYOUT.session("old"), LAYOUT.session("new")
    await stores.sessions.save(old, write(b"x", index=USER, age_ms=MINUTE))
    saved = await stores.sessions.save(new, write(b"y", 1, index=USER, replaces=old))
    read = await stores.sessions.load(new, idle_ms=MINUTE, absolute_ms=60 * MINUTE)
    assert (saved.saved, saved.version) == (True, 2)
    assert await load(stores, old) is None
    assert read.record is not None
    assert read.record.data == b"y"
    assert read.record.age_ms >= MINUTE
    assert await stores.sessions.destroy_owned(USER) == 1


async def test_of_two_rotations_of_one_session_one_wins(stores: Stores) -> None:
    old = LAYOUT.session("old")
    await stores.sessions.save(old, write(b"x"))
    answers = await asyncio.gather(
        *(stores.sessions.save(LAYOUT.session(f"n{i}"), write(b"y", 1, replaces=old)) for i in range(5))
    )
    assert sum(answer.saved for answer in answers) == 1


async def test_all_sessions_of_a_user_go_and_nobody_elses(stores: Stores) -> None:
    other = LAYOUT.user_sessions(Identity("other", "ann"))
    for name, index in (("a", USER), ("b", USER), ("c", other), ("d", None)):
        await stores.sessions.save(LAYOUT.session(name), write(name.encode(), index=index))
    assert await stores.sessions.destroy([LAYOUT.session("a"), LAYOUT.session("none")]) == 1
    assert await stores.sessions.destroy_owned(USER) == 1
    left = [await load(stores, LAYOUT.session(name)) for name in "abcd"]
    assert left == [None, None, b"c", b"d"]


async def test_a_session_that_gets_another_owner_leaves_the_list_of_the_first(stores: Stores) -> None:
    other = LAYOUT.user_sessions(Identity("acme", "bob"))
    await stores.sessions.save(LAYOUT.session("a"), write(index=USER))
    await stores.sessions.save(LAYOUT.session("a"), write(version=1, index=other))
    assert await stores.sessions.destroy_owned(USER) == 0
    assert await stores.sessions.destroy_owned(other) == 1


async def test_a_conflict_tells_what_is_stored_instead(stores: Stores) -> None:
    key = LAYOUT.session("a")
    await stores.sessions.save(key, write(b"one", index=USER, label="phone", age_ms=MINUTE))
    await stores.sessions.save(key, write(b"two", 1))
    late = await stores.sessions.save(key, write(b"late", 1))
    assert late.found is not None
    assert late.found._replace(age_ms=0) == SessionRecord(b"two", 2, 0, USER, "phone")
    assert MINUTE <= late.found.age_ms < 2 * MINUTE
    gone = await stores.sessions.save(LAYOUT.session("b"), write(b"x", 1))
    assert gone.found is None


async def test_a_load_tells_owner_and_label_and_a_rotation_keeps_them(stores: Stores) -> None:
    old, new = LAYOUT.session("old"), LAYOUT.session("new")
    await stores.sessions.save(old, write(b"x", index=USER, label="phone"))
    await stores.sessions.save(new, write(b"y", 1, replaces=old))
    read = await stores.sessions.load(new, idle_ms=MINUTE, absolute_ms=60 * MINUTE)
    assert read.record is not None
    assert (read.record.owner, read.record.label) == (USER, "phone")


async def owned(stores: Stores, idle: int = MINUTE, absolute: int = 60 * MINUTE) -> list[SessionEntry]:
    return await stores.sessions.owned(USER, idle_ms=idle, absolute_ms=absolute)


async def test_an_owners_sessions_are_listed_the_one_begun_last_first(stores: Stores) -> None:
    for name, age, label in (("a", 2 * MINUTE, "phone"), ("b", 3 * MINUTE, None), ("c", MINUTE, "é" * 99)):
        await stores.sessions.save(LAYOUT.session(name), write(index=USER, age_ms=age, label=label))
    await stores.sessions.save(LAYOUT.session("other"), write())
    entries = await owned(stores)
    assert [(entry.key, entry.label) for entry in entries] == [
        (LAYOUT.session("c"), "é" * 99),
        (LAYOUT.session("a"), "phone"),
        (LAYOUT.session("b"), None),
    ]
    now = time.time() * 1000
    for entry in entries:
        assert entry.created_ms + MINUTE <= entry.used_ms + 5
        assert abs(now - entry.used_ms) < 5_000


async def test_listing_is_no_use_and_tells_when_the_last_one_was(stores: Stores) -> None:
    key = LAYOUT.session("a")
    await stores.sessions.save(key, write(index=USER))
    (before,) = await owned(stores)
    await asyncio.sleep(0.1)
    (again,) = await owned(stores)
    assert abs(again.used_ms - before.used_ms) <= 3
    await load(stores, key)
    (after,) = await owned(stores)
    assert after.created_ms == before.created_ms
    assert after.used_ms - before.used_ms >= 90


async def test_what_is_over_or_has_another_owner_now_is_not_listed(stores: Stores) -> None:
    await stores.sessions.save(LAYOUT.session("old"), write(index=USER, age_ms=10 * MINUTE))
    await stores.sessions.save(LAYOUT.session("idle"), write(index=USER, idle_ms=50))
    await stores.sessions.save(LAYOUT.session("gone"), write(index=USER))
    await stores.sessions.save(LAYOUT.session("here"), write(index=USER))
    await stores.sessions.destroy([LAYOUT.session("gone")])
    await asyncio.sleep(0.1)
    assert [entry.key for entry in await owned(stores, absolute=5 * MINUTE)] == [LAYOUT.session("here")]


async def test_only_the_owners_session_is_destroyed_where_an_owner_is_named(stores: Stores) -> None:
    other = LAYOUT.user_sessions(Identity("acme", "bob"))
    for name, index in (("a", USER), ("b", other), ("c", None)):
        await stores.sessions.save(LAYOUT.session(name), write(index=index))
    keys = [LAYOUT.session(name) for name in ("a", "b", "c", "none")]
    assert [await stores.sessions.destroy([key], owner=USER) for key in keys] == [1, 0, 0, 0]
    assert [await load(stores, key) for key in keys] == [None, b"{}", b"{}", None]


async def test_all_sessions_of_a_user_but_one_go_however_many_there_are(stores: Stores) -> None:
    keys = [LAYOUT.session(str(number)) for number in range(1201)]
    await asyncio.gather(*(stores.sessions.save(key, write(index=USER)) for key in keys))
    assert len(await owned(stores)) == 256
    assert await stores.sessions.destroy_owned(USER, keep=keys[7]) == 1200
    assert [entry.key for entry in await owned(stores)] == [keys[7]]
    assert await stores.sessions.destroy_owned(USER) == 1
    assert await owned(stores) == []


async def test_a_longer_absolute_time_takes_no_session_out_of_its_owners_list(stores: Stores) -> None:
    """The list would otherwise forget it at its first end, and ending all of a user's sessions would miss it."""
    key, longer = LAYOUT.session("a"), {"idle_ms": MINUTE, "absolute_ms": 600 * MINUTE}
    await stores.sessions.save(key, write(index=USER, idle_ms=MINUTE, absolute_ms=200))
    assert (await stores.sessions.load(key, **longer)).record is not None
    await asyncio.sleep(0.3)
    await stores.sessions.save(LAYOUT.session("b"), write(index=USER))
    assert await load(stores, key, absolute=600 * MINUTE) == b"{}"
    assert await stores.sessions.destroy_owned(USER) == 2


# --- cache


async def test_values_are_binary_and_missing_ones_are_none(stores: Stores) -> None:
    data = bytes(range(256)) * 100
    await stores.cache.put("masterclaw/core:c:a", data, MINUTE)
    await stores.cache.mput(
        [CacheItem("masterclaw/core:c:b", b"", MINUTE), CacheItem("masterclaw/core:c:c", b"\r\n", MINUTE)]
    )
    assert await stores.cache.get("masterclaw/core:c:a") == data
    assert await stores.cache.get("masterclaw/core:c:none") is None
    keys = [f"masterclaw/core:c:{name}" for name in ("c", "none", "a", "b", "c")]
    assert await stores.cache.mget(keys) == [b"\r\n", None, data, b"", b"\r\n"]
    await stores.cache.delete("masterclaw/core:c:a", "masterclaw/core:c:none")
    assert await stores.cache.get("masterclaw/core:c:a") is None


async def test_nothing_asked_is_nothing_answered(stores: Stores) -> None:
    assert await stores.cache.mget([]) == []
    await stores.cache.mput([])
    await stores.cache.delete()
    assert await stores.sessions.destroy([]) == 0


async def test_a_value_lives_as_long_as_it_was_given(stores: Stores) -> None:
    await stores.cache.put("masterclaw/core:c:a", b"x", 100)
    assert await stores.cache.get("masterclaw/core:c:a") == b"x"
    await asyncio.sleep(0.15)
    assert await stores.cache.get("masterclaw/core:c:a") is None


# --- control


async def test_the_stamp_of_all_is_always_there_and_stays_until_it_is_renewed(stores: Stores) -> None:
    first = await stores.control.stamps()
    assert first["all"]
    assert await stores.control.stamps() == first
    renewed = await stores.control.set_stamps(["all", "tenant=acme"])
    assert renewed["all"] != first["all"]
    assert await stores.control.stamps() == renewed
    assert (await stores.control.set_stamps(["tenant=acme"]))["tenant=acme"] != renewed["tenant=acme"]


async def test_a_wider_purge_takes_the_place_of_narrower_ones(stores: Stores) -> None:
    """The hash does not grow by what is purged again as a whole."""
    await stores.control.stamps()
    await stores.control.set_stamps(["tenant=acme&tag=a", "tag=a", "tenant=acme", "tenant=globex&tag=b"])
    narrowed = await stores.control.set_stamps(["tag=a"])
    assert set(narrowed) == {"all", "tag=a", "tenant=acme", "tenant=globex&tag=b"}
    assert set(await stores.control.set_stamps(["all"])) == {"all"}


async def test_a_document_renews_once_whichever_process_comes_first(stores: Stores) -> None:
    """A process that follows late purges nothing again; a clearance by hand always does."""
    first = await stores.control.set_stamps(["all"], revision="r7")
    assert await stores.control.set_stamps(["all"], revision="r7") == first
    later = await stores.control.set_stamps(["all"], revision="r8")
    assert later["all"] != first["all"]
    by_hand = await stores.control.set_stamps(["all"])
    assert by_hand["all"] != later["all"]
    assert (await stores.control.set_stamps(["all"], revision="r8"))["all"] == by_hand["all"]
    back = await stores.control.set_stamps(["all"], revision="r7")
    assert back["all"] not in (first["all"], by_hand["all"])


async def test_however_much_is_purged_the_stamps_are_bounded(stores: Stores) -> None:
    """And at the bound every entry within a forgotten scope still gets another stamp than it ever had."""
    scopes = [Scope(tenant=f"t{number % 40}", tags=(f"doc-{number}",)) for number in range(MAX_FIELDS + 88)]
    made_before = {scope: combine(scope, await stores.control.stamps(), None) for scope in scopes}
    stamps: dict[str, str] = {}
    for scope in scopes:
        stamps = await stores.control.set_stamps([scope.stamp_field])
        assert len(stamps) <= MAX_FIELDS
    assert all(combine(scope, stamps, None) != before for scope, before in made_before.items())
    assert "all" in stamps


async def test_whatever_is_purged_in_whatever_order_nothing_comes_back(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every entry's stamp, after each of many purges, beyond the bound too: one from before a purge that covers
    the entry is never valid again."""
    for module in (memory, redis_stores):
        monkeypatch.setattr(module, "MAX_FIELDS", 16)  # reached many times
    chance = random.Random(7)  # noqa: S311 - the same purges each time
    values: dict[str, tuple[str, ...]] = {
        "kind": ("responses", "embeddings"),
        "tenant": ("a", "b"),
        "provider": ("p", "q"),
        "model": ("m", "n"),
    }
    entries = [
        Scope(kind, tenant, provider, model, tags)
        for kind, tenant, provider, model in itertools.product(*values.values())
        for tags in ((), ("x",), ("y",), ("x", "y"))
    ]
    purges = dict.fromkeys(entries, 0)
    valid: dict[tuple[Scope, str], int] = {}
    folds = 0
    for number in range(200):
        # Narrow ones mostly, so that the bound is reached.
        parts = {name: chance.choice((None, *(given * 9))) for name, given in values.items()}
        tag = chance.choice((None, "x", "y", *[f"rare-{number}"] * 9))
        purged = Scope(**parts, tags=() if tag is None else (tag,))
        stamps = await stores.control.set_stamps([purged.stamp_field])
        shapes = shapes_of(stamps)
        assert len(stamps) <= 16
        folds += any("*" in field for field in stamps)
        for entry in entries:
            purges[entry] += all(
                part is None or part == getattr(entry, name) for name, part in parts.items()
            ) and set(purged.tags) <= set(entry.tags)
            now = (entry, combine(entry, stamps, None, shapes))
            assert valid.setdefault(now, purges[entry]) == purges[entry]
    assert folds or stores.kind == "memory"


async def test_a_store_that_lost_the_newest_purge_makes_everything_a_miss(stores: Stores) -> None:
    """Such as an append-only file that ends a second too early: who saw more says so."""
    if stores.kind == "memory":
        pytest.skip("a process that ends takes its cache along")
    lost = await stores.control.set_stamps(["tenant=acme"])
    seen = newest(lost) + 1_000_000
    repaired = await stores.control.stamps(seen=seen)
    assert set(repaired) == {"all"}
    assert newest(repaired) > seen
    assert await stores.control.stamps(seen=newest(repaired)) == repaired


async def test_live_processes_are_counted_and_a_withdrawn_one_is_not(stores: Stores) -> None:
    assert (await stores.control.acknowledge("pod-a/1/x", b"{}")).live == 1
    second = await stores.control.acknowledge("pod-b/1/y", b"{}")
    assert second.live == 2
    assert (await stores.control.acknowledge("pod-a/1/x", b"{}")) == second
    await stores.control.withdraw("pod-a/1/x")
    assert (await stores.control.acknowledge("pod-b/1/y", b"{}")).live == 1


async def test_a_document_that_nobody_wrote_is_none(stores: Stores) -> None:
    assert await stores.control.document() is None


async def test_a_wake_up_reaches_a_listener_and_listening_starts_with_one(stores: Stores) -> None:
    async with aclosing(stores.control.wakes()) as wakes, asyncio.timeout(5):
        await anext(wakes)
        waiting = asyncio.ensure_future(anext(wakes))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await stores.control.wake()
        await waiting
