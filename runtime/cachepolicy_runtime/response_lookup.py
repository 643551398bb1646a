"""Looking for the stored answer to a request: first level, store, and what it is good for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cachepolicy.stamps import MAX_TAGS, tags_of
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.caching import CacheView
from cachepolicy_runtime.first_level import FirstLevel
from cachepolicy_runtime.freshness import Asked, Use, use_of
from cachepolicy_runtime.response_counts import ResponseCounts
from cachepolicy_runtime.response_entries import Facts, Found, found_of, packed, unpacked
from cachepolicy_runtime.response_outcome import IN_MEMORY, STORE_AWAY
from cachepolicy_runtime.response_places import Place, Places
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.port import CacheStore


@dataclass(slots=True)
class Trip:
    """One request that has a place, and what was found there.

    Attributes:
        tags: of the entry that a new answer makes.
        stamp: of that entry, from before the provider is asked.
        store: where a new answer goes.
        found: the valid entry, whatever it is good for.
        use: what it is good for.
        how: why the provider is asked, for ``Cache-Status``.
        where: ``detail`` of a hit: ``memory`` or nothing.
        failed: the call raised, or its answer was none.
    """

    view: CacheView
    place: Place
    asked: Asked
    tags: tuple[str, ...]
    stamp: str
    store: CacheStore
    found: Found | None = None
    use: Use = Use.EXPIRED
    how: str = "fwd=uri-miss"
    where: str = ""
    failed: bool = False

    @property
    def entry(self) -> tuple[str, str]:
        """What identical requests have in common: the entry, and the purges that they know of."""
        return self.place.name, self.place.stamp


class Lookup:
    """Reads and writes entries. One per process."""

    def __init__(self, counts: ResponseCounts, now_ms: Callable[[], int]) -> None:
        self._counts = counts
        self._now_ms = now_ms
        self._places = Places()
        self._first = FirstLevel()
        #: Same arguments, same answer: see :meth:`Places.of`.
        self.place = self._places.of
        #: The same for :meth:`Places.stamp`.
        self.stamp = self._places.stamp

    def trip(self, view: CacheView, place: Place, asked: Asked, tags: tuple[str, ...]) -> Trip:
        """Raises ``ValueError`` for tags that are none."""
        trip = Trip(view, place, asked, (), place.stamp, view.store)
        if tags:
            self._tag(trip, tags_of(tags))
        return trip

    def local(self, view: CacheView, place: Place, now_ms: int) -> Found | None:
        """From the first level."""
        found = self._first.get(place.name, now_ms)
        return found if found is not None and self._valid(view, place, found) else None

    async def look(self, trip: Trip) -> None:
        """Find the valid entry, in this process's memory while the store is away."""
        view, name = trip.view, trip.place.name
        try:
            data = await trip.store.get(name)
        except StoreUnavailable:
            self._counts.store_failures += 1
            trip.store, trip.where, trip.how = view.fallback, IN_MEMORY, f"fwd=miss; detail={STORE_AWAY}"
            data = await trip.store.get(name)
        self.judge(trip, data)

    def judge(self, trip: Trip, data: bytes | None) -> Found | None:
        """Take in what the store has; the answer if it may be served as fresh."""
        found = unpacked(trip.view.secret, trip.place.name, data)
        if found is None:
            return None
        if not self._valid(trip.view, trip.place, found):
            trip.how = "fwd=stale"
            return None
        now_ms = self._now_ms()
        trip.found = found
        trip.use = use_of(found.age_ms(now_ms), found.ttl_ms, trip.place.rules, trip.asked)
        if trip.use is Use.FRESH:
            if found.ttl_ms > found.age_ms(now_ms):
                self._keep(trip.place, found, now_ms)
            return found
        trip.how = "fwd=request" if trip.use is Use.REFUSED else "fwd=stale"
        if found.facts.tags:  # its successor is emptied by the same purges
            self._tag(trip, tuple(sorted({*trip.tags, *found.facts.tags})[:MAX_TAGS]))
        return None

    async def store(self, trip: Trip, answer: Answer, facts: Facts) -> tuple[Found, bool]:
        """Keep an answer that may be kept, until it is too old even for an error of the provider.

        Returns it as readers will find it, and whether the store has it.
        """
        place, now_ms = trip.place, self._now_ms()
        found = found_of(trip.stamp, now_ms, place.ttl_ms, answer, facts)
        data = packed(trip.view.secret, place.name, found)
        try:
            await trip.store.put(place.name, data, found.ttl_ms + place.rules.stale_ms)
        except StoreUnavailable:
            self._counts.store_failures += 1
            return found, False
        self._counts.stored += 1
        self._keep(place, found, now_ms)
        return found, True

    def holds(self, view: CacheView, place: Place, found: Found) -> bool:
        """Whether it is still valid under a view that is newer than its place."""
        tags = found.facts.tags
        return found.stamp == self._places.stamp(view, place.tenant, place.provider, place.model, tags)

    def _tag(self, trip: Trip, tags: tuple[str, ...]) -> None:
        place = trip.place
        stamp = self._places.stamp(trip.view, place.tenant, place.provider, place.model, tags)
        trip.tags, trip.stamp = tags, stamp or place.stamp

    def _valid(self, view: CacheView, place: Place, found: Found) -> bool:
        """Nothing that covers the entry, its own tags included, was purged since."""
        tags = found.facts.tags
        if not tags:
            return found.stamp == place.stamp
        return found.stamp == self._places.stamp(view, place.tenant, place.provider, place.model, tags)

    def _keep(self, place: Place, found: Found, now_ms: int) -> None:
        """Into the first level, where the policy has one."""
        local = place.rules.local
        if local is None:
            if self._first:
                self._first.clear()
            return
        if not place.local:
            return
        until = min(found.stored_at_ms + found.ttl_ms, now_ms + local.ttl.milliseconds)
        self._first.put(place.name, found, until, local.max_bytes.bytes)
