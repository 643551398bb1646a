"""What every implementation of the limits' port does alike, beyond plain windows: logs, leases, shadows, corrections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from tests.servers import Server
from tests.stores import LAYOUT, STORE_KINDS, opened

from cachepolicy_runtime.store.port import (
    Adjustment,
    Check,
    Lease,
    LeaseCheck,
    LimitCheck,
    LimitStore,
    WindowRate,
)

MINUTE = 60_000


@pytest.fixture(params=STORE_KINDS)
async def limits(
    request: pytest.FixtureRequest, servers: Callable[[str], Server]
) -> AsyncIterator[LimitStore]:
    async with opened(request.param, servers) as found:
        yield found.limits


def window(
    name: str, limit: int, *, log: bool = False, window_ms: int = MINUTE, weight: int = 1
) -> LimitCheck:
    key = LAYOUT.limit_log if log else LAYOUT.limit
    return LimitCheck((WindowRate(key(name, window_ms, ["tenant=acme"]), limit, window_ms, log),), weight)


def slots(limit: int, timeout_ms: int = MINUTE) -> LeaseCheck:
    return LeaseCheck(LAYOUT.limit_leases("parallel", ["tenant=acme"]), limit, timeout_ms)


# --- logs


async def test_a_log_admits_exactly_its_number_and_frees_each_request_a_window_later(
    limits: LimitStore,
) -> None:
    asked = [window("l", 2, log=True, window_ms=300)]
    assert [(await limits.admit(asked)).admitted for _ in range(3)] == [True, True, False]
    refused = (await limits.admit(asked)).states[0][0]
    assert refused.remaining == 0
    assert 0 < refused.retry_ms <= refused.reset_ms <= 300
    await asyncio.sleep(refused.retry_ms / 1000 + 0.005)
    assert (await limits.admit(asked)).admitted


# --- leases


async def test_slots_are_held_until_they_are_released(limits: LimitStore) -> None:
    asked = [slots(2)]
    taken = [await limits.admit(asked, lease=name) for name in ("a", "b", "c")]
    assert [answer.admitted for answer in taken] == [True, True, False]
    assert [answer.states[0][0].remaining for answer in taken] == [1, 0, 0]
    assert taken[2].states[0][0].retry_ms > 0
    limits.release([Lease(slots(2).key, "a"), Lease(slots(2).key, "never")])
    assert (await limits.admit(asked, lease="c")).admitted
    assert not (await limits.admit(asked, lease="d")).admitted


async def test_a_lease_that_nobody_renews_ends_and_one_that_is_renewed_does_not(limits: LimitStore) -> None:
    asked = [slots(2, timeout_ms=300)]
    for name in ("dead", "alive"):
        assert (await limits.admit(asked, lease=name)).admitted
    await asyncio.sleep(0.2)
    await limits.renew([Lease(asked[0].key, "alive")], 2_000)
    await asyncio.sleep(0.2)
    assert (await limits.admit(asked, lease="c")).admitted
    assert not (await limits.admit(asked, lease="d")).admitted


async def test_a_lease_that_ended_in_an_outage_comes_back_by_its_renewal(limits: LimitStore) -> None:
    """Its request is still under way, and counting it is the truth."""
    asked = [slots(1)]
    await limits.renew([Lease(asked[0].key, "a")], MINUTE)
    assert not (await limits.admit(asked, lease="b")).admitted


@pytest.mark.parametrize("slots_first", [False, True])
async def test_windows_and_slots_are_taken_together_or_not_at_all(
    limits: LimitStore, slots_first: bool
) -> None:
    asked: list[Check] = [window("l", 10), slots(1)]
    if slots_first:
        asked.reverse()
    assert (await limits.admit(asked, lease="a")).admitted
    assert not (await limits.admit(asked, lease="b")).admitted
    assert (await limits.admit([window("l", 10)])).states[0][0].remaining == 8
    full: list[Check] = [window("full", 1, weight=2), slots(5)]
    assert not (await limits.admit(full, lease="c")).admitted
    assert (await limits.admit([slots(5)], lease="d")).states[0][0].remaining == 3


async def test_a_thousand_callers_at_once_get_no_more_slots_than_there_are(limits: LimitStore) -> None:
    answers = await asyncio.gather(*(limits.admit([slots(7)], lease=str(n)) for n in range(1000)))
    assert sum(answer.admitted for answer in answers) == 7


# --- shadows


async def test_a_shadow_refuses_nothing_and_is_counted_only_when_it_has_room(limits: LimitStore) -> None:
    shadows = [window("shadow", 1), window("other", 5)]
    first, second = [await limits.admit([window("l", 5)], shadows=shadows) for _ in range(2)]
    assert (first.admitted, second.admitted) == (True, True)
    assert [answer.admitted for answer in first.shadows] == [True, True]
    assert [answer.admitted for answer in second.shadows] == [False, True]
    assert (await limits.admit([shadows[0]])).states[0][0].remaining == 0
    assert (await limits.admit([shadows[1]])).states[0][0].remaining == 2


async def test_a_request_that_is_refused_is_counted_in_no_shadow(limits: LimitStore) -> None:
    refused = await limits.admit([window("l", 1, weight=2)], shadows=[window("shadow", 5)])
    assert not refused.admitted
    assert refused.shadows[0].admitted
    assert (await limits.admit([window("shadow", 5)])).states[0][0].remaining == 4


async def test_shadows_alone_admit(limits: LimitStore) -> None:
    answers = [await limits.admit([], shadows=[slots(1)], lease=name) for name in ("a", "b")]
    assert [answer.admitted for answer in answers] == [True, True]
    assert [answer.shadows[0].admitted for answer in answers] == [True, False]


# --- corrections


async def test_what_was_counted_is_corrected_where_it_was_counted(limits: LimitStore) -> None:
    asked = window("tokens", 100, weight=60)
    admitted = await limits.admit([asked])
    await limits.adjust([Adjustment(asked.rates[0], admitted.at_us, -35)])
    assert (await limits.admit([window("tokens", 100)])).states[0][0].remaining == 74
    await limits.adjust([Adjustment(asked.rates[0], admitted.at_us, 500)])
    over = (await limits.admit([window("tokens", 100)])).states[0][0]
    assert (over.remaining, over.retry_ms > 0) == (0, True)
    await limits.adjust([Adjustment(asked.rates[0], admitted.at_us, -10_000)])
    assert (await limits.admit([window("tokens", 100)])).states[0][0].remaining == 99


async def test_a_correction_of_what_has_left_its_window_changes_nothing(limits: LimitStore) -> None:
    asked = window("tokens", 100, weight=60)
    admitted = await limits.admit([asked])
    long_ago = admitted.at_us - 10 * MINUTE * 1000
    await limits.adjust([Adjustment(asked.rates[0], long_ago, -60), Adjustment(asked.rates[0], long_ago, 60)])
    assert (await limits.admit([window("tokens", 100)])).states[0][0].remaining == 39


@pytest.mark.parametrize("log", [False, True])
async def test_a_second_phase_that_refuses_gives_the_first_one_back_in_the_same_step(
    limits: LimitStore, log: bool
) -> None:
    first, second = window("first", 10, log=log), window("second", 5, weight=6)
    admitted = await limits.admit([first])
    back = [Adjustment(first.rates[0], admitted.at_us, -1)]
    assert not (await limits.admit([second], refund=back)).admitted
    assert (await limits.admit([first])).states[0][0].remaining == 9
    kept = await limits.admit([first])
    back = [Adjustment(first.rates[0], kept.at_us, -1)]
    assert (await limits.admit([window("second", 5)], refund=back)).admitted
    assert (await limits.admit([first])).states[0][0].remaining == 7
