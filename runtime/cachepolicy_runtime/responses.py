"""The response cache: a complete answer of a provider, kept for the tenant that asked.

Only authentication chooses whose answers are read: without an identity nothing is read and nothing stored. A stream
is passed through untouched. Whatever happens to the store, the call to the provider goes on; while the store is
away, each process keeps answers in its own memory.

The way of a request: its place (``response_places``), the first level and the store (``response_lookup``), what the
answer there is good for (``freshness``), and then the call, alone or for all who ask the same at that moment
(``response_calls``, ``coalescing``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from cachepolicy.caches import CacheMode
from cachepolicy.identity import Identity
from cachepolicy.prices import Prices
from cachepolicy.stamps import MAX_TAG_LENGTH, MAX_TAGS, tags_of
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.caching import ViewSource, wall_clock_ms
from cachepolicy_runtime.freshness import NOTHING_ASKED, Use, asked_for
from cachepolicy_runtime.keys import NotCanonicalError, UpstreamRequest, response_digest
from cachepolicy_runtime.response_calls import Calls
from cachepolicy_runtime.response_counts import ResponseCounts
from cachepolicy_runtime.response_entries import Found
from cachepolicy_runtime.response_lookup import Lookup, Trip
from cachepolicy_runtime.response_outcome import (
    IN_PROCESS,
    STALE,
    Inspection,
    Outcome,
    bypassed,
    hit_status,
    not_cached,
)
from cachepolicy_runtime.response_places import Place, scope_of
from cachepolicy_runtime.values import Values

__all__ = ["Inspection", "OnMiss", "Outcome", "Responses"]

A = TypeVar("A")

#: Told of each lookup that missed: tenant, provider, request.
OnMiss = Callable[[str, str, UpstreamRequest], None]


class Responses:
    """See the module. One per process.

    Attributes:
        counts: what it did.
        on_miss: told of each lookup that missed, before the provider is asked.
        values: what is cached beside answers.
    """

    def __init__(self, view: ViewSource, *, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._view = view
        self._now_ms = now_ms
        self.counts = ResponseCounts(self._prices)
        self.on_miss: OnMiss | None = None
        self._lookup = Lookup(self.counts, now_ms)
        self._calls = Calls(view, self._lookup, self.counts, now_ms)
        self.values = Values(view, self._lookup, self._calls, self.counts, now_ms)

    async def aclose(self) -> None:
        """End what goes on in the background."""
        await self._calls.aclose()

    async def get_or_call(
        self,
        request: UpstreamRequest,
        call: Callable[[], Awaitable[A]],
        *,
        provider: str,
        identity: Identity | None,
        key: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> Outcome[A | Answer]:
        """The cached answer to ``request``, else what ``call`` returns, which is stored if it may be.

        ``call`` sends the request and returns an :class:`Answer`; for a stream, whatever the caller wants. Its
        exceptions pass through. With ``staleWhileRevalidate`` it may be called after this method has returned.
        ``provider`` is a name from the policy, such as ``openai``. ``identity`` comes from authentication; None
        means that the cache is not used. ``key`` is what :meth:`key` gave for this request. ``tags`` are names
        (at most 16, of 1 to 64 characters) by which a purge can empty the entry; ``ValueError`` for others.
        """
        view = self._view()
        asked = asked_for(request.cache_control) if request.cache_control else NOTHING_ASKED
        place = self._lookup.place(view, request, provider, identity, key)
        if isinstance(place, str):
            self.counts.bypassed[place] += 1
            return not_cached() if asked.only_if_cached else Outcome(await call(), False, bypassed(place))
        if place.local and asked is NOTHING_ASKED:
            now_ms = self._now_ms()
            found = self._lookup.local(view, place, now_ms)
            if found is not None:
                self.counts.local_hits += 1
                return self._hit(place, found, now_ms, IN_PROCESS)
        trip = self._lookup.trip(view, place, asked, tags)
        if place.rules.mode is CacheMode.SHADOW and not asked.only_if_cached:
            return await self._calls.shadow(trip, call)
        if asked.no_cache or place.rules.mode is CacheMode.SHADOW:
            trip.how = "fwd=request"
        else:
            await self._lookup.look(trip)
        if trip.found is not None and trip.use in (Use.FRESH, Use.REVALIDATE):
            return self._served(trip, trip.found, call)
        if self.on_miss is not None and identity is not None:
            self.on_miss(identity.tenant, provider, request)
        return await self._missed(trip, call)

    def key(self, request: UpstreamRequest, *, provider: str, identity: Identity | None) -> str | None:
        """The part of the key that takes time to derive, for :meth:`get_or_call`; None where there is none.

        It belongs to whoever may read the answer: with another identity it finds nothing.
        """
        view = self._view()
        scope = scope_of(view.responses, identity) if view.responses is not None else None
        if scope is None:
            return None
        try:
            return response_digest(view.secret, scope, provider, request)
        except NotCanonicalError:
            return None

    def tags_in(self, headers: Mapping[str, str]) -> tuple[str, ...]:
        """The tags that a request names in the header that the policy allows; what is no tag is left out."""
        rules = self._view().responses
        if rules is None or rules.tag_header is None:
            return ()
        given = headers.get(rules.tag_header) or headers.get(rules.tag_header.lower()) or ""
        named = (tag.strip() for tag in given.split(","))
        return tags_of([tag for tag in named if 0 < len(tag) <= MAX_TAG_LENGTH][:MAX_TAGS])

    async def inspect(
        self, request: UpstreamRequest, *, provider: str, identity: Identity | None
    ) -> Inspection:
        """What this request would meet. Nothing is called, stored or counted, but for a store that is away."""
        view = self._view()
        place = self._lookup.place(view, request, provider, identity, None)
        if isinstance(place, str):
            return Inspection("bypass", place)
        trip = self._lookup.trip(view, place, asked_for(request.cache_control), ())
        await self._lookup.look(trip)
        now_ms, found = self._now_ms(), trip.found
        if found is None:
            return Inspection("miss", "purged" if trip.how == "fwd=stale" else None)
        served = {Use.FRESH: "hit", Use.REVALIDATE: "stale", Use.IF_ERROR: "stale"}.get(trip.use, "miss")
        return Inspection(served, trip.use.value, found.ttl_s(now_ms), found.age_ms(now_ms) // 1000)

    async def _missed(self, trip: Trip, call: Callable[[], Awaitable[A]]) -> Outcome[A | Answer]:
        asked = trip.asked
        if asked.only_if_cached:
            return not_cached()
        if trip.place.rules.coalesce is None or asked.no_cache or asked.no_store:
            return (await self._calls.ask(trip, call))[0]
        return await self._calls.together(trip, call)

    def _served(self, trip: Trip, found: Found, call: Callable[[], Awaitable[A]]) -> Outcome[A | Answer]:
        now_ms, where = self._now_ms(), trip.where
        if found.age_ms(now_ms) >= found.ttl_ms:
            self.counts.stale_served += 1
            where = STALE
        if trip.use is Use.REVALIDATE and not (trip.asked.no_store or trip.asked.only_if_cached):
            self._calls.refresh_soon(trip, call)
        return self._hit(trip.place, found, now_ms, where)

    def _hit(self, place: Place, found: Found, now_ms: int, detail: str) -> Outcome[A | Answer]:
        self.counts.of(place.provider, place.model).hit(found.facts)
        age_ms = found.age_ms(now_ms)
        status = hit_status((found.ttl_ms - age_ms) // 1000, detail)
        return Outcome(found.answer, True, status, age_ms // 1000)

    def _prices(self) -> Prices | None:
        rules = self._view().responses
        return rules.prices if rules is not None else None
