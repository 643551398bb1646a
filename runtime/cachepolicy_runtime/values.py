"""Values of other kinds in the response cache: results of functions, generations of LangChain.

They are entries like any other: of one tenant (or user, or all), sealed, bound to the purge stamps, in the first
level, and made once for all who ask at the same time. A purge or a time to live of the policy names them by a
provider of their own (:data:`FUNCTIONS`, for instance) and, as the model, by their name. Two rules of the policy
are left out, for code does not expect them: nothing stale is served, and an exception is never hidden.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cachepolicy.caches import CacheMode
from cachepolicy.durations import Duration
from cachepolicy.identity import Identity
from cachepolicy.keys import GLOBAL_SCOPE
from cachepolicy.response_cache import Cacheable, CacheScope, Coalesce, ResponseCache
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.caching import CacheView, ViewSource
from cachepolicy_runtime.credential_rules import credential_in
from cachepolicy_runtime.freshness import NOTHING_ASKED, Use
from cachepolicy_runtime.keys import KEY_VERSION, NotCanonicalError, canonical_json
from cachepolicy_runtime.macs import framed
from cachepolicy_runtime.response_calls import Calls
from cachepolicy_runtime.response_counts import ResponseCounts
from cachepolicy_runtime.response_entries import Facts
from cachepolicy_runtime.response_lookup import Lookup, Trip
from cachepolicy_runtime.response_places import Judge, Place, scope_of

#: The provider that results of functions are known by.
FUNCTIONS = "functions"
#: The longest name, which is what a purge in a policy can name.
MAX_NAME = 128

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class ValueName:
    """Which value.

    Attributes:
        provider, name: what a policy calls it by.
        parts: what else tells it from others, plain JSON.
        scope: who shares it; None: as the policy says for answers.
        ttl: how long it is fresh where the policy gives this provider no time to live; None: as the policy says.
        tags: by which a purge can name it.
        removable: it may be deleted, so no process keeps it in its first level.
    """

    provider: str
    name: str
    parts: Any
    scope: CacheScope | None = None
    ttl: Duration | None = None
    tags: tuple[str, ...] = ()
    removable: bool = False


class Values:
    """See the module. One per process, beside :class:`~cachepolicy_runtime.responses.Responses`."""

    def __init__(
        self,
        view: ViewSource,
        lookup: Lookup,
        calls: Calls,
        counts: ResponseCounts,
        now_ms: Callable[[], int],
    ) -> None:
        self._view = view
        self._lookup = lookup
        self._calls = calls
        self._counts = counts
        self._now_ms = now_ms
        self._policy: ResponseCache | None = None
        self._known_rules: dict[tuple[CacheScope | None, Duration | None], ResponseCache] = {}

    async def get_or_make(
        self, which: ValueName, make: Callable[[], Awaitable[bytes | None]], *, identity: Identity | None
    ) -> bytes | None:
        """The stored value, else what ``make`` returns, which is stored unless it is None.

        Its exceptions pass through. Without an identity only what all share is cached.
        """
        trip = self.trip(which, identity)
        if trip is None:
            return await make()

        async def call() -> Answer | None:
            payload = await make()
            return None if payload is None else Answer(200, payload, {"content-type": JSON})

        if trip.place.rules.mode is CacheMode.SHADOW:
            outcome = await self._calls.shadow(trip, call)
        elif (payload := await self.look(trip)) is not None:
            return payload
        else:
            outcome = await self._calls.together(trip, call)
        return outcome.answer.body if isinstance(outcome.answer, Answer) else None

    def trip(self, which: ValueName, identity: Identity | None) -> Trip | None:
        """The way to one value; None where it is not cached. Take it before the value is made: a purge that comes
        in between then makes the entry a miss.
        """
        view = self._view()
        place = self._place(view, which, identity)
        if isinstance(place, str):
            self._counts.bypassed[place] += 1
            return None
        return self._lookup.trip(view, place, NOTHING_ASKED, which.tags)

    async def look(self, trip: Trip) -> bytes | None:
        """The value at the end of the way; None where there is none."""
        place = trip.place
        found = self._lookup.local(trip.view, place, self._now_ms()) if place.local else None
        if found is not None:
            self._counts.local_hits += 1
        else:
            await self._lookup.look(trip)
            found = trip.found if trip.use is Use.FRESH else None
        if place.rules.mode is CacheMode.SHADOW:
            self._counts.would_lookups += 1
            self._counts.would_hits += found is not None
            return None
        if found is None:
            return None
        self._counts.of(place.provider, place.model).hit(found.facts)
        return found.answer.body

    async def keep(self, trip: Trip, payload: bytes, *, kind: str = JSON) -> None:
        """Store a value of this media type that was made beside the cache."""
        answer = Answer(200, payload, {"content-type": kind})
        self._counts.of(trip.place.provider, trip.place.model).misses += 1
        if why := _refusal(answer, trip.place.rules.cacheable):
            self._counts.not_stored[why] += 1
        else:
            await self._lookup.store(trip, answer, Facts(trip.tags))

    async def remove(self, trips: Sequence[Trip]) -> None:
        """Delete values of one owner; those that are not there do no harm. Raises StoreUnavailable."""
        if trips:
            await trips[0].view.store.delete(*(trip.place.name for trip in trips))

    def _place(self, view: CacheView, which: ValueName, identity: Identity | None) -> Place | str:
        """The place, or one word for why the value is not cached."""
        if view.responses is None or view.responses.mode is CacheMode.OFF:
            return "no-policy" if view.responses is None else "off"
        rules = self._rules(view.responses, which)
        shared = rules.scope is CacheScope.GLOBAL
        scope = GLOBAL_SCOPE if shared else scope_of(rules, identity)
        if scope is None:
            return "no-identity" if identity is None else "no-user"
        tenant = None if shared or identity is None else identity.tenant
        stamp = self._lookup.stamp(view, tenant, which.provider, which.name, ())
        if stamp is None:
            return "purge-state-unknown"
        try:
            named = framed(which.provider.encode(), which.name.encode(), canonical_json(which.parts))
        except NotCanonicalError:
            return "not-canonical"
        digest = view.secret.names.digest(framed(KEY_VERSION, b"value", scope.encode()), named).hex()
        name = view.layout.response(scope, which.provider, digest)
        local = rules.local is not None and rules.mode is CacheMode.ENFORCE and not which.removable
        return Place(
            name, digest, stamp, rules, which.provider, which.name, tenant, judge=_JUDGE, local=local
        )

    def _rules(self, policy: ResponseCache, which: ValueName) -> ResponseCache:
        """The policy's rules as far as they are for values. What it says of this provider goes before the code."""
        if policy is not self._policy:
            self._policy, self._known_rules = policy, {}
        known = self._known_rules.get((which.scope, which.ttl))
        if known is None:
            changes: dict[str, Any] = {
                "coalesce": policy.coalesce or Coalesce(),
                "stale_while_revalidate": None,
                "stale_if_error": None,
                "scope": which.scope or policy.scope,
                "ttl": which.ttl or policy.ttl,
            }
            known = self._known_rules[which.scope, which.ttl] = policy.model_copy(update=changes)
        return known


def _refusal(answer: Answer, rules: Cacheable) -> str | None:
    if len(answer.body) > rules.max_entry_bytes.bytes:
        return "too-large"
    return "credential" if credential_in(answer.body) else None


#: A value costs no tokens that the provider would tell.
_JUDGE = Judge(_refusal, lambda body: None)
