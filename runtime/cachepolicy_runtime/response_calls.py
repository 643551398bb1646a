"""Asking the provider: alone, for all who ask the same at that moment, in the background, or beside the cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cachepolicy_runtime.answers import Answer, said
from cachepolicy_runtime.background import Background
from cachepolicy_runtime.caching import ViewSource
from cachepolicy_runtime.coalescing import (
    FAILED_MS,
    UNCACHEABLE_MS,
    Alone,
    Flight,
    Flights,
    Lease,
    Leases,
)
from cachepolicy_runtime.freshness import Use
from cachepolicy_runtime.response_counts import ResponseCounts
from cachepolicy_runtime.response_entries import Facts, Found
from cachepolicy_runtime.response_lookup import Lookup, Trip
from cachepolicy_runtime.response_outcome import (
    STALE_IF_ERROR,
    STORE_AWAY,
    WAITED_ENOUGH,
    Outcome,
    forwarded,
)
from cachepolicy_runtime.store.errors import StoreUnavailable

A = TypeVar("A")
Call = Callable[[], Awaitable[A]]

#: Renewals in the background that a process has under way at most; more are left to later requests.
MAX_REFRESHES = 64


class Calls:
    """Every way to the provider. One per process."""

    def __init__(
        self, view: ViewSource, lookup: Lookup, counts: ResponseCounts, now_ms: Callable[[], int]
    ) -> None:
        self._view = view
        self._lookup = lookup
        self._counts = counts
        self._now_ms = now_ms
        self._background = Background()
        self._leases = Leases(self._background)
        self._flights = Flights()
        self._refreshing = 0

    async def aclose(self) -> None:
        """End what goes on in the background."""
        self._leases.close()
        await self._background.aclose()

    # --- alone --------------------------------------------------------------------------------------------

    async def ask(self, trip: Trip, call: Call[A]) -> tuple[Outcome[A | Answer], Found | None]:
        """Ask, and store what may be stored; also that, as others will find it.

        With ``staleIfError`` a call that fails is answered by the entry that is there.
        """
        self._counts.of(trip.place.provider, trip.place.model).misses += 1
        return await self._ask(trip, call)

    async def _ask(self, trip: Trip, call: Call[A]) -> tuple[Outcome[A | Answer], Found | None]:
        began, trip.failed = time.monotonic(), True
        try:
            answer = await call()
        except Exception:
            if (stale := self._stale(trip)) is not None:
                return stale
            raise
        trip.failed = isinstance(answer, Answer) and answer.status != 200
        if not isinstance(answer, Answer):
            return Outcome(answer, False, forwarded(trip.how)), None
        if answer.failed and (stale := self._stale(trip, answer.status)) is not None:
            return stale
        found, told = await self._kept(trip, answer, int((time.monotonic() - began) * 1000))
        return Outcome(answer, False, forwarded(trip.how, f"fwd-status={answer.status}", told)), found

    async def _kept(self, trip: Trip, answer: Answer, took_ms: int) -> tuple[Found | None, str]:
        """Store it if it may be; how ``Cache-Status`` says what became of it."""
        if trip.asked.no_store:
            return None, "detail=no-store"
        judge = trip.place.judge
        if why := judge.refusal(answer, trip.place.rules.cacheable):
            self._counts.not_stored[why] += 1
            return None, f"detail={why}"
        facts = Facts.of(trip.tags, judge.usage(answer.body), took_ms)
        found, stored = await self._lookup.store(trip, answer, facts)
        return found, "stored" if stored else f"detail={STORE_AWAY}"

    def _stale(self, trip: Trip, status: int | None = None) -> tuple[Outcome[A | Answer], Found] | None:
        """The entry that stands in for an answer that failed."""
        found = trip.found
        if found is None or trip.use is not Use.IF_ERROR:
            return None
        if not self._lookup.holds(self._view(), trip.place, found):
            return None  # the call took its time, and the entry was purged meanwhile
        self._counts.stale_served += 1
        self._counts.stale_errors += 1
        more = () if status is None else (f"fwd-status={status}",)
        told = forwarded("fwd=stale", *more, f"detail={STALE_IF_ERROR}")
        return Outcome(found.answer, False, told, found.age_ms(self._now_ms()) // 1000), found

    # --- together -----------------------------------------------------------------------------------------

    async def together(self, trip: Trip, call: Call[A]) -> Outcome[A | Answer]:
        """Ask once for all identical requests of all replicas. Who has waited ``waitMax`` asks by himself."""
        coalesce = trip.place.rules.coalesce
        wait_s = coalesce.wait_max.seconds if coalesce is not None else 0.0
        until = asyncio.get_running_loop().time() + wait_s
        while (flight := self._flights.get(trip.entry)) is not None:
            result = await flight.wait(until)
            if isinstance(result, Found):
                return self._shared(trip, result)
            if result is not Alone.AGAIN:
                return await self._alone(trip, call, waited=result is None)
        return await self._lead(trip, call, until)

    async def _lead(self, trip: Trip, call: Call[A], until: float) -> Outcome[A | Answer]:
        """Ask for all of this process, when it is this process's turn among the replicas."""
        flight = self._flights.begin(trip.entry)
        result: Found | Alone = Alone.APART
        lease: Lease | None = None
        try:
            turn = await self._turn(trip, until)
            if isinstance(turn, Found):
                result = turn
                return self._shared(trip, turn)
            if isinstance(turn, Alone):
                self._flights.end(trip.entry, flight, result)
                return await self._alone(trip, call, waited=turn is Alone.AGAIN)
            lease = turn
            outcome, found = await self.ask(trip, call)
            result = found or result
            return outcome  # noqa: TRY300 - one list of what may come of it
        except asyncio.CancelledError:
            result = Alone.AGAIN
            raise
        finally:
            self._flights.end(trip.entry, flight, result)
            if lease is not None:
                lease.release(_apart_ms(result, failed=trip.failed))

    async def _turn(self, trip: Trip, until: float) -> Found | Lease | Alone | None:
        """None: ask without a lease, for the store is away."""
        view, place = trip.view, trip.place
        if trip.store is not view.store:
            return None
        try:
            return await self._leases.turn(
                view.leases, place.lease, place.name, lambda data: self._lookup.judge(trip, data), until
            )
        except StoreUnavailable:
            self._counts.store_failures += 1
            return None

    async def _alone(self, trip: Trip, call: Call[A], *, waited: bool) -> Outcome[A | Answer]:
        if waited:
            trip.how = f"{trip.how.partition('; ')[0]}; detail={WAITED_ENOUGH}"
        return (await self.ask(trip, call))[0]

    def _shared(self, trip: Trip, found: Found) -> Outcome[A | Answer]:
        """An answer that another request's call brought."""
        self._counts.of(trip.place.provider, trip.place.model).hit(found.facts)
        self._counts.coalesced += 1
        told = forwarded(trip.how.partition("; ")[0], "collapsed")
        return Outcome(found.answer, True, told, found.age_ms(self._now_ms()) // 1000)

    # --- in the background --------------------------------------------------------------------------------

    def refresh_soon(self, trip: Trip, call: Call[A]) -> None:
        """Renew a stale entry, once over all replicas; nobody waits for it."""
        if self._refreshing < MAX_REFRESHES and self._flights.get(trip.entry) is None:
            self._refreshing += 1
            self._background.spawn(self._refresh(trip, call, self._flights.begin(trip.entry)))

    async def _refresh(self, trip: Trip, call: Call[A], flight: Flight) -> None:
        lease: Lease | None = None
        found: Found | None = None
        mine = False
        try:
            lease = await self._claim(trip)
            mine = lease is not None or trip.store is not trip.view.store
            if mine:
                found = (await self._ask(trip, call))[1]
        except Exception:  # noqa: S110 - the caller has his answer, and the counts tell; a later one tries again
            pass
        finally:
            self._refreshing -= 1
            self._flights.end(trip.entry, flight, found or Alone.APART)
            if lease is not None:
                lease.release(0 if found is not None else FAILED_MS)
            if mine:
                self._counts.refreshed += found is not None
                self._counts.refresh_failures += found is None

    async def _claim(self, trip: Trip) -> Lease | None:
        """The right to renew; None where somebody else has it, or has renewed already. In this process's memory
        there is no lease."""
        view, place = trip.view, trip.place
        if trip.store is not view.store:
            return None
        turn = await self._leases.claim(
            view.leases, place.lease, place.name, lambda data: self._lookup.judge(trip, data)
        )
        return turn if isinstance(turn, Lease) else None

    # --- beside the cache ---------------------------------------------------------------------------------

    async def shadow(self, trip: Trip, call: Call[A]) -> Outcome[A | Answer]:
        """Ask as if there were no cache, and count what it would have done."""
        await self._lookup.look(trip)
        found = trip.found if trip.use in (Use.FRESH, Use.REVALIDATE) else None
        trip.found = None  # it serves nobody, not even when the provider fails
        self._counts.would_lookups += 1
        self._counts.would_hits += found is not None
        trip.how = f"fwd=bypass; detail=shadow-{'miss' if found is None else 'hit'}"
        outcome, _ = await self.ask(trip, call)
        if found is not None and isinstance(outcome.answer, Answer):
            self._counts.would_differ += said(outcome.answer.body) != said(found.answer.body)
        return outcome


def _apart_ms(result: Found | Alone, *, failed: bool) -> int:
    """For how long nobody shall wait for this entry after its call."""
    if result is Alone.AGAIN:
        return 0
    if failed:
        return FAILED_MS
    return 0 if isinstance(result, Found) else UNCACHEABLE_MS
