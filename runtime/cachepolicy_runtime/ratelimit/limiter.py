"""Asks the store for room, and does what each limit says when there is no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from cachepolicy.keys import KeyLayout
from cachepolicy_runtime.ratelimit.asked import Asked
from cachepolicy_runtime.ratelimit.counts import LimitCounts
from cachepolicy_runtime.ratelimit.decision import UNLIMITED, Decision, Outcome
from cachepolicy_runtime.ratelimit.denials import Denials
from cachepolicy_runtime.ratelimit.held import LeaseKeeper
from cachepolicy_runtime.ratelimit.rules import Limits
from cachepolicy_runtime.ratelimit.spending import Charge, Reservation
from cachepolicy_runtime.ratelimit.subject import Subject
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore, monotonic_us
from cachepolicy_runtime.store.port import Adjustment, Admission, Lease, LimitStore, StoreUnavailable
from cachepolicy_runtime.usage import Usage

#: Where a request's scope keeps its :class:`Admitted`. Only the server and the app can write to a scope.
ADMISSION = "cachepolicy.admission"


class Admitted:
    """A request that was let in: who it is, and what it was counted in until a second phase refuses it."""

    __slots__ = ("_charge", "decision", "subject")

    def __init__(self, subject: Subject, decision: Decision) -> None:
        self.subject = subject
        self.decision = decision
        self._charge = decision.charge

    def take_charge(self) -> Charge | None:
        """What was counted, once: it can be given back no second time."""
        charge, self._charge = self._charge, None
        return charge


class _Answer(NamedTuple):
    """A decision, and what it is made of: who was asked what, and the answer (None where nobody was asked)."""

    decision: Decision
    store: LimitStore
    asked: Asked
    admission: Admission | None

    @property
    def charge(self) -> Charge | None:
        if self.admission is None or not self.admission.admitted:
            return None
        return Charge(self.store, self.asked, self.admission)


class RateLimiter:
    """One per set of servers.

    Args:
        store: counts over all replicas.
        fallback: counts in this process while the store is away.
        live: how many processes share the limits (last known; at least 1).
        counts: what is counted of decisions.
    """

    def __init__(
        self,
        store: LimitStore,
        fallback: MemoryLimitStore,
        live: Callable[[], int],
        counts: LimitCounts | None = None,
        now_us: Callable[[], int] = monotonic_us,
    ) -> None:
        self._store = store
        self._memory = store if isinstance(store, MemoryLimitStore) else None
        self._fallback = fallback
        self._live = live
        self._counts = counts or LimitCounts()
        self._now_us = now_us
        self.leases = LeaseKeeper()

    # --- admission ----------------------------------------------------------------------------------------

    async def admit(self, limits: Limits, keys: KeyLayout, subject: Subject, cost: int = 1) -> Decision:
        """Decide one request before it is let in; never raises StoreUnavailable.

        ``cost`` is how many requests it counts as. What the decision holds has to be released
        (:attr:`Decision.lease`).
        """
        asked = limits.asked(subject, keys, cost)
        if asked is None:
            self._counts.admitted += 1
            return UNLIMITED
        return self.at_once(asked, limits.denials) or await self.decide(asked, limits.denials)

    def at_once(self, asked: Asked, denials: Denials | None) -> Decision | None:
        """The decision where nobody has to be waited for; None where the store has to be asked."""
        if not asked.any:
            decision = UNLIMITED
        elif self._memory is not None and asked.plain:
            decision = _plain(asked, self._memory.decide(asked.checks))
        elif denials and (states := denials.of(asked.checks, self._now_us())) is not None:
            self._counts.remembered += 1
            decision = Decision(Outcome.LIMITED, asked.reports(states), quota=asked.quota or None)
        else:
            return None
        self._counts.count(decision)
        return decision

    async def decide(self, asked: Asked, denials: Denials | None) -> Decision:
        """Ask the store. Without ``denials`` what is counted may be given back, by a second phase."""
        if asked.plain and denials is not None:
            decision = await self._decide_windows(asked, denials)
        else:
            answer = await self._ask(asked)
            decision = answer.decision
            decision.charge = answer.charge if denials is None else None
        self._counts.count(decision)
        return decision

    async def _decide_windows(self, asked: Asked, denials: Denials) -> Decision:
        now_us = self._now_us()
        try:
            admission = await self._store.admit(asked.checks)
        except StoreUnavailable:
            return self._without_store(asked).decision
        if not admission.admitted:
            denials.remember(asked.checks, admission.states, now_us)
        return _plain(asked, admission)

    # --- spending -----------------------------------------------------------------------------------------

    async def reserve(
        self,
        limits: Limits,
        keys: KeyLayout,
        subject: Subject,
        estimate: Usage,
        admitted: Admitted | None = None,
    ) -> Reservation | Decision:
        """Decide one call to a provider before it is made; never raises StoreUnavailable.

        A :class:`Decision` is a refusal; what ``admitted`` was counted in is given back in the same step. A
        reservation has to be settled or refunded.
        """
        asked = limits.asked_to_spend(subject, keys, estimate)
        charge = admitted.take_charge() if admitted is not None else None
        if asked is None:
            return Reservation(UNLIMITED)
        here = charge is not None and charge.store is self._store
        refund = charge.refund() if charge is not None else []
        answer = await self._ask(asked, refund if here else ())
        self._counts.count_spend(answer.decision)
        if answer.decision.allowed:
            return Reservation(answer.decision, answer.charge, tokens=asked.tokens)
        if charge is not None and not (here and answer.store is self._store):
            await _adjust(charge.store, refund)
        return answer.decision

    async def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Count what the call did cost instead of what was reserved; never raises StoreUnavailable."""
        charge = reservation.end()
        if charge is not None:
            self._counts.spend.settled += 1
            await _adjust(charge.store, charge.correction(usage))

    async def refund(self, reservation: Reservation) -> None:
        """The call was not made, or cost nothing: count none of it; never raises StoreUnavailable."""
        charge = reservation.end()
        if charge is not None:
            self._counts.spend.refunded += 1
            await _adjust(charge.store, charge.refund())

    # --- one decision -------------------------------------------------------------------------------------

    async def _ask(self, asked: Asked, refund: Sequence[Adjustment] = ()) -> _Answer:
        lease = self.leases.new_id() if asked.leases else ""
        try:
            admission = await self._store.admit(
                asked.checks, shadows=asked.shadows, lease=lease, refund=refund
            )
        except StoreUnavailable:
            return self._without_store(asked)
        except asyncio.CancelledError:
            # It may be decided all the same, and nobody is left who would end its leases.
            self._store.release([Lease(key, lease) for key in asked.leases])
            raise
        return self._answer(asked, self._store, admission, lease)

    def _without_store(self, asked: Asked) -> _Answer:
        if asked.denies:
            return _Answer(Decision(Outcome.UNAVAILABLE, degraded=True), self._fallback, asked, None)
        local = asked.local(max(1, self._live()))
        lease = self.leases.new_id() if local.leases else ""
        admission = self._fallback.decide(local.checks, shadows=local.shadows, lease=lease)
        return self._answer(local, self._fallback, admission, lease, degraded=True)

    def _answer(
        self, asked: Asked, store: LimitStore, admission: Admission, lease: str, *, degraded: bool = False
    ) -> _Answer:
        got = asked.leases_of(admission) if lease else []
        decision = Decision(
            Outcome.ADMITTED if admission.admitted else Outcome.LIMITED,
            asked.reports(admission.states),
            degraded,
            shadowed=asked.shadowed(admission) if asked.shadow else (),
            lease=self.leases.hold(store, lease, got) if got else None,
            quota=asked.quota,
        )
        return _Answer(decision, store, asked, admission)


def _plain(asked: Asked, admission: Admission) -> Decision:
    """The decision over windows that are all enforced."""
    outcome = Outcome.ADMITTED if admission[0] else Outcome.LIMITED
    return Decision(outcome, asked.reports(admission[1]), quota=asked.quota)


async def _adjust(store: LimitStore, adjustments: Sequence[Adjustment]) -> None:
    """Counts that cannot be corrected leave their window in time."""
    if adjustments:
        with suppress(StoreUnavailable):
            await store.adjust(adjustments)
