"""The limiter: what it remembers, what a shadow does, what is held, reserved, settled and given back, and outages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy.limits import RateLimit, Unit
from cachepolicy_runtime.ratelimit import (
    Admitted,
    Decision,
    LimitCounts,
    Limits,
    Outcome,
    RateLimiter,
    Reservation,
    Subject,
    compile_limits,
)
from cachepolicy_runtime.ratelimit.held import LEASE_MS
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.store.port import Adjustment, Admission, Check, Lease, LimitCheck, StoreUnavailable
from cachepolicy_runtime.usage import Usage

KEYS = KeyLayout("masterclaw/core")
ANN = Subject("POST", "/v1/chat", "192.0.2.1", Identity("acme", "ann"))
GPT = ANN.with_model("gpt-x")
SECOND = 1_000_000


class Store:
    """A server: a memory of its own that can be away, or hang, and remembers how often it was asked."""

    def __init__(self) -> None:
        self.now = 10**12
        self.memory = MemoryLimitStore(lambda: self.now)
        self.away = False
        self.hangs = False
        self.asked = 0
        self.renewed: list[Lease] = []

    async def admit(self, checks: Sequence[Check], **more: Any) -> Admission:
        self._here()
        self.asked += 1
        answer = self.memory.decide(checks, **more)
        if self.hangs:
            await asyncio.Event().wait()
        return answer

    async def adjust(self, adjustments: Sequence[Adjustment]) -> None:
        self._here()
        await self.memory.adjust(adjustments)

    async def renew(self, leases: Sequence[Lease], timeout_ms: int) -> None:
        self._here()
        self.renewed += leases
        await self.memory.renew(leases, timeout_ms)

    def release(self, leases: Sequence[Lease]) -> None:
        if not self.away:
            self.memory.release(leases)

    def _here(self) -> None:
        if self.away:
            raise StoreUnavailable("state", "connection refused")


class World:
    """A limiter over a store, and the policy that it follows."""

    def __init__(self, live: int = 1, **limits: dict[str, Any]) -> None:
        self.store = Store()
        self.fallback = MemoryLimitStore(lambda: self.store.now)
        self.counts = LimitCounts()
        self.limiter = RateLimiter(
            self.store, self.fallback, lambda: live, self.counts, lambda: self.store.now
        )
        self.limits: Limits = compile_limits(
            {
                name: RateLimit.model_validate({"by": [{"type": "Tenant"}], **limit})
                for name, limit in limits.items()
            }
        )

    async def admit(self, subject: Subject = ANN, cost: int = 1) -> Decision:
        return await self.limiter.admit(self.limits, KEYS, subject, cost)

    async def admitted(self) -> Admitted:
        return Admitted(ANN, await self.admit())

    async def reserve(self, guess: Usage, admitted: Admitted | None = None) -> Reservation | Decision:
        return await self.limiter.reserve(self.limits, KEYS, GPT, guess, admitted)

    async def left(self, name: str, window: str = "1m") -> int:
        """Units of a limit that are free in the store."""
        limit = next(one for one in self.limits if one.name == name)
        check = limit.check(GPT, KEYS, 0)
        assert isinstance(check, LimitCheck)
        return self.memory_of(check)

    def memory_of(self, check: LimitCheck) -> int:
        return self.store.memory.decide([check]).states[0][0].remaining


def rate(limit: int, window: str = "1m", **more: Any) -> dict[str, Any]:
    return {"rates": [{"limit": limit, "window": window}], **more}


def tokens(limit: int, **more: Any) -> dict[str, Any]:
    return rate(limit, unit="Tokens", **more)


def slots(limit: int, **more: Any) -> dict[str, Any]:
    return {"unit": "Concurrency", "limit": limit, **more}


def reserved(answer: Reservation | Decision) -> Reservation:
    assert isinstance(answer, Reservation)
    return answer


# --- refusals that are remembered


async def test_after_a_refusal_the_store_is_not_asked_until_there_is_room() -> None:
    """With a Retry-After that counts down, and never a moment longer than the store would refuse."""
    world = World(a=rate(1, "10s"))
    await world.admit()
    refused = await world.admit()
    asked = world.store.asked
    world.store.now += 4 * SECOND
    again = await world.admit()
    assert (again.outcome, world.store.asked) == (Outcome.LIMITED, asked)
    assert again.retry_after_ms == refused.retry_after_ms - 4000
    assert [report.policy for report in again.refused_by] == ["a"]
    world.store.now += (again.retry_after_ms - 2) * 1000
    assert not (await world.admit()).allowed
    assert world.store.asked == asked
    world.store.now += 2000
    assert (await world.admit()).allowed
    assert (world.counts.limited, world.counts.remembered) == (3, 2)


async def test_a_refusal_is_remembered_for_its_window_and_not_for_others_or_for_less() -> None:
    world = World(a=rate(5), b=rate(9, match={"paths": ["/v1/b"]}))
    for _ in range(4):
        await world.admit()
    assert not (await world.admit(cost=2)).allowed
    asked = world.store.asked
    assert (await world.admit(cost=1)).allowed  # less fits
    assert not (await world.admit(cost=3)).allowed  # more does not
    assert world.store.asked == asked + 1
    assert not (await world.admit(ANN._replace(path="/v1/b"), cost=2)).allowed
    assert world.store.asked == asked + 1
    assert (await world.admit(ANN._replace(identity=Identity("other")))).allowed


async def test_another_policy_knows_nothing_of_the_refusals_of_the_last_one() -> None:
    world = World(a=rate(1))
    await world.admit()
    assert not (await world.admit()).allowed
    world.limits = World(a=rate(2)).limits
    assert (await world.admit()).allowed


async def test_where_units_may_be_given_back_no_refusal_is_remembered() -> None:
    """A refund in any replica makes room sooner than the store could say."""
    world = World(a=rate(1), spend=tokens(10))
    await world.admit()
    for expected in (2, 3):
        assert not (await world.admit()).allowed
        assert world.store.asked == expected


async def test_a_refusal_by_slots_is_not_remembered() -> None:
    world = World(a=slots(1))
    first = await world.admit()
    assert not (await world.admit()).allowed
    assert first.lease is not None
    first.lease.release()
    assert (await world.admit()).allowed


# --- shadows


async def test_a_shadow_is_counted_and_told_to_nobody_but_the_operator() -> None:
    world = World(a=rate(10), shadow=rate(1, mode="Shadow"), slow=slots(1, mode="Shadow"))
    decisions = [await world.admit() for _ in range(3)]
    assert all(decision.allowed for decision in decisions)
    assert [decision.shadowed for decision in decisions] == [(), ("shadow", "slow"), ("shadow", "slow")]
    assert [report.policy for report in decisions[1].rates] == ["a"]
    assert world.counts.as_dict(1)["shadowRefusedBy"] == {"shadow": 2, "slow": 2}
    assert decisions[0].lease is not None
    assert decisions[1].lease is None
    decisions[0].lease.release()
    assert (await world.admit()).shadowed == ("shadow",)


async def test_a_shadow_does_not_change_what_the_others_decide() -> None:
    world = World(a=rate(2), shadow=rate(5, mode="Shadow"))
    outcomes = [(await world.admit()).allowed for _ in range(4)]
    assert outcomes == [True, True, False, False]
    assert await world.left("shadow") == 3


# --- slots


async def test_a_lease_is_renewed_while_it_is_held_and_ended_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    world = World(a=slots(1))
    decision = await world.admit()
    assert decision.lease is not None
    for _ in range(10):  # far longer than a lease lasts by itself
        world.store.now += LEASE_MS * 1000 // 3
        await timers.fire()
        assert not (await world.admit()).allowed
    decision.lease.release()
    decision.lease.release()
    assert (len(world.limiter.leases), timers.pending) == (0, 0)
    assert (await world.admit()).allowed


async def test_a_process_that_is_killed_holds_its_slots_no_longer_than_a_lease_lasts() -> None:
    world = World(a=slots(1))
    assert (await world.admit()).allowed  # and nobody renews it
    world.store.now += (LEASE_MS - 1) * 1000
    assert not (await world.admit()).allowed
    world.store.now += 1000
    assert (await world.admit()).allowed


async def test_a_renewal_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = Timers(monkeypatch)
    world = World(a=slots(1))
    decision = await world.admit()
    world.store.away = True
    await timers.fire()
    world.store.away = False
    await timers.fire()
    assert len(world.store.renewed) == 1
    assert decision.lease is not None
    decision.lease.release()


async def test_a_caller_that_leaves_while_the_store_decides_holds_nothing() -> None:
    world = World(a=slots(1))
    world.store.hangs = True
    waiting = asyncio.create_task(world.admit())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    world.store.hangs = False
    assert (await world.admit()).allowed


class Timers:
    """The event loop's timers, fired by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._due: list[tuple[asyncio.TimerHandle, Any]] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_later", self._call_later)

    @property
    def pending(self) -> int:
        return sum(not handle.cancelled() for handle, _ in self._due)

    async def fire(self) -> None:
        due, self._due = self._due, []
        for handle, callback in due:
            if not handle.cancelled():
                callback()
        for _ in range(3):
            await asyncio.sleep(0)

    def _call_later(self, delay: float, callback: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(delay, callback, (), asyncio.get_running_loop())
        self._due.append((handle, callback))
        return handle


# --- spending


@pytest.mark.parametrize(("used", "left"), [(Usage(10, 0, 5), 70), (Usage(10, 0, 90), -1), (Usage(), 100)])
async def test_a_call_is_reserved_by_estimate_and_settled_by_what_it_used(used: Usage, left: int) -> None:
    world = World(a=tokens(100, weights={"output": 4}))
    reservation = reserved(await world.reserve(Usage(10, 0, 10)))
    assert (reservation.tokens, reservation.decision.rates[0].unit) == (True, Unit.TOKENS)
    assert await world.left("a") == 50
    await world.limiter.settle(reservation, used)
    assert await world.left("a") == max(0, left)
    await world.limiter.settle(reservation, Usage(1))
    await world.limiter.refund(reservation)
    assert await world.left("a") == max(0, left)
    assert world.counts.as_dict(1)["spend"] == {"reserved": 1, "refused": 0, "settled": 1, "refunded": 0}


async def test_a_call_that_was_not_made_is_given_back_with_its_slot_and_its_count() -> None:
    world = World(
        a=tokens(100),
        b=rate(5, by=[{"type": "Model"}]),
        c=slots(1, by=[{"type": "Model"}]),
        d=tokens(50, mode="Shadow"),
    )
    reservation = reserved(await world.reserve(Usage(30)))
    assert isinstance(await world.reserve(Usage(30)), Decision)
    await world.limiter.refund(reservation)
    assert [await world.left(name) for name in "abd"] == [100, 5, 50]
    again = reserved(await world.reserve(Usage(30)))
    await world.limiter.settle(again, Usage(20))
    assert [await world.left(name) for name in "abd"] == [80, 4, 30]
    assert len(world.limiter.leases) == 0


async def test_a_refusal_of_the_second_phase_gives_the_first_one_back_once() -> None:
    world = World(first=rate(5), a=tokens(10))
    admitted = await world.admitted()
    assert await world.left("first") == 4
    refusal = await world.reserve(Usage(11), admitted)
    assert isinstance(refusal, Decision)
    assert (refusal.outcome, [report.policy for report in refusal.refused_by]) == (Outcome.LIMITED, ["a"])
    assert await world.left("first") == 5
    await world.reserve(Usage(11), admitted)
    assert await world.left("first") == 5


async def test_a_request_that_got_one_answer_keeps_its_count() -> None:
    world = World(first=rate(5), a=tokens(10))
    admitted = await world.admitted()
    reserved(await world.reserve(Usage(9), admitted))
    assert isinstance(await world.reserve(Usage(9), admitted), Decision)
    assert await world.left("first") == 4


async def test_nothing_is_reserved_where_no_limit_applies() -> None:
    world = World(a=tokens(10, by=[{"type": "User"}]))
    nobody = await world.limiter.reserve(
        world.limits, KEYS, GPT._replace(identity=Identity("acme")), Usage(99)
    )
    reservation = reserved(nobody)
    assert (reservation.tokens, world.store.asked) == (False, 0)
    await world.limiter.settle(reservation, Usage(5))


# --- outages


@pytest.mark.parametrize(("live", "admitted"), [(1, 6), (2, 3), (100, 1)])
async def test_an_outage_divides_tokens_and_slots_too(live: int, admitted: int) -> None:
    world = World(live, a=tokens(6), b=slots(6))
    world.store.away = True
    decisions = [await world.admit() for _ in range(8)]
    assert sum(decision.allowed for decision in decisions) == admitted
    assert all(decision.degraded for decision in decisions)
    calls = [await world.reserve(Usage(1)) for _ in range(8)]
    assert sum(isinstance(call, Reservation) for call in calls) == admitted


async def test_what_was_got_in_an_outage_is_given_back_where_it_was_got() -> None:
    world = World(a=slots(1), b=tokens(10), c=rate(5))
    world.store.away = True
    decision = await world.admit()
    reservation = reserved(await world.reserve(Usage(10)))
    world.store.away = False
    assert decision.lease is not None
    decision.lease.release()
    await world.limiter.settle(reservation, Usage(4))
    assert await world.left("b") == 10
    world.store.away = True
    assert (await world.admit()).allowed
    assert isinstance(await world.reserve(Usage(6)), Reservation)


async def test_a_correction_that_cannot_be_made_raises_nothing() -> None:
    world = World(first=rate(5), a=tokens(10))
    admitted = await world.admitted()
    reservation = reserved(await world.reserve(Usage(5)))
    world.store.away = True
    await world.limiter.settle(reservation, Usage(1))
    refusals = [await world.reserve(Usage(9), admitted) for _ in range(2)]
    assert isinstance(refusals[1], Decision)


@pytest.mark.parametrize("limit", [tokens(10, onStoreFailure="Deny"), slots(3, onStoreFailure="Deny")])
async def test_deny_answers_503_in_both_phases(limit: dict[str, Any]) -> None:
    world = World(a=limit)
    world.store.away = True
    decision = await world.admit() if limit["unit"] == "Concurrency" else await world.reserve(Usage(1))
    assert isinstance(decision, Decision)
    assert (decision.outcome, decision.degraded) == (Outcome.UNAVAILABLE, True)


async def test_a_shadow_that_would_deny_refuses_nothing_in_an_outage() -> None:
    world = World(a=rate(5, mode="Shadow", onStoreFailure="Deny"))
    world.store.away = True
    assert (await world.admit()).allowed


async def test_allow_passes_uncounted_in_both_phases() -> None:
    world = World(a=tokens(1, onStoreFailure="Allow"), b=slots(1, onStoreFailure="Allow"))
    world.store.away = True
    assert all([(await world.admit()).allowed for _ in range(3)])
    assert all([isinstance(await world.reserve(Usage(5)), Reservation) for _ in range(3)])
