"""The response cache: a complete answer of a provider, kept for the tenant that asked.

Only authentication chooses the tenant: without an identity nothing is read and nothing stored. A stream is
passed through untouched. Whatever happens to the store, the call to the provider goes on; while the store is away,
each process keeps answers in its own memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachepolicy.identity import Identity
from cachepolicy.keys import tenant_scope
from cachepolicy.response_cache import Cacheable
from cachepolicy.stamps import Scope
from cachepolicy_runtime.answers import Answer, refusal
from cachepolicy_runtime.caching import CACHE_NAME, CacheCounts, CacheView, ViewSource, wall_clock_ms
from cachepolicy_runtime.envelope import Entry, pack, unpack
from cachepolicy_runtime.keys import NotCanonicalError, UpstreamRequest, response_digest
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.port import CacheStore

A = TypeVar("A")

KIND = "responses"
STORE_AWAY = "store-unavailable"


@dataclass(frozen=True, slots=True)
class Outcome(Generic[A]):
    """An answer and where it came from.

    Attributes:
        answer: the cached answer, or what ``call`` returned, untouched.
        hit: it came from the cache.
        cache_status: value of the ``Cache-Status`` header (RFC 9211).
        age_s: value of the ``Age`` header in seconds; None unless it is a hit.
    """

    answer: A
    hit: bool
    cache_status: str
    age_s: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers to add to the answer."""
        age = {} if self.age_s is None else {"Age": str(self.age_s)}
        return {"Cache-Status": self.cache_status, **age}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the answer to one request lives, under which rules, and the stamp that was valid before the
    provider was asked: a purge in between makes the entry a miss."""

    name: str
    stamp: str
    ttl_ms: int
    rules: Cacheable


@dataclass(frozen=True, slots=True)
class _Looked:
    """What was found, how ``Cache-Status`` says it, and the store that a new answer goes to."""

    entry: Entry | None
    how: str
    store: CacheStore


class Responses:
    """See the module. One per process; ``counts`` is what it did."""

    def __init__(self, view: ViewSource, *, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._view = view
        self._now_ms = now_ms
        self.counts = CacheCounts()

    async def get_or_call(
        self,
        request: UpstreamRequest,
        call: Callable[[], Awaitable[A]],
        *,
        provider: str,
        identity: Identity | None,
    ) -> Outcome[A | Answer]:
        """The cached answer to ``request``, else what ``call`` returns, which is stored if it may be.

        ``call`` sends the request and returns an :class:`Answer`; for a stream, whatever the caller wants.
        Its exceptions pass through. ``provider`` is a name from the policy, such as ``openai``. ``identity``
        comes from authentication; None means that the cache is not used.
        """
        view = self._view()
        place = _place(view, request, provider, identity)
        if isinstance(place, str):
            self.counts.bypassed[place] += 1
            return Outcome(await call(), False, f"{CACHE_NAME}; fwd=bypass; detail={place}")
        asked = _directives(request.cache_control)
        looked = _Looked(None, "fwd=request", view.store)
        if "no-cache" not in asked:
            looked = await self._read(view, place)
        if looked.entry is not None:
            self.counts.of(provider).hits += 1
            return self._hit(looked.entry, looked.how)
        self.counts.of(provider).misses += 1
        answer, why = await call(), looked.how
        if not isinstance(answer, Answer):
            return Outcome(answer, False, f"{CACHE_NAME}; {why}")
        kept = "no-store" if "no-store" in asked else await self._store(view, place, answer, looked.store)
        told = "stored" if kept is None else f"detail={kept}"
        return Outcome(answer, False, f"{CACHE_NAME}; {why}; fwd-status={answer.status}; {told}")

    async def _read(self, view: CacheView, place: _Place) -> _Looked:
        """The valid entry, from this process's memory while the store is away."""
        store, hit, miss = view.store, "hit", "fwd=uri-miss"
        try:
            data = await store.get(place.name)
        except StoreUnavailable:
            self.counts.store_failures += 1
            store, hit, miss = view.fallback, "hit; detail=memory", f"fwd=miss; detail={STORE_AWAY}"
            data = await store.get(place.name)
        entry = unpack(view.secret, place.name, data) if data is not None else None
        if entry is None:
            return _Looked(None, miss, store)
        return _Looked(entry, hit, store) if entry.stamp == place.stamp else _Looked(None, "fwd=stale", store)

    def _hit(self, entry: Entry, how: str) -> Outcome[A | Answer]:
        now_ms = self._now_ms()
        kind, _, detail = how.partition("; ")
        told = f"{CACHE_NAME}; {kind}; ttl={entry.ttl_left_s(now_ms)}"
        return Outcome(
            Answer(200, entry.payload, {"content-type": entry.kind}),
            True,
            f"{told}; {detail}" if detail else told,
            entry.age_s(now_ms),
        )

    async def _store(self, view: CacheView, place: _Place, answer: Answer, store: CacheStore) -> str | None:
        """Keep the answer; why not, as a word, when it was not."""
        if why := refusal(answer, place.rules):
            self.counts.not_stored[why] += 1
            return why
        entry = Entry(place.stamp, self._now_ms(), place.ttl_ms, answer.content_type, answer.body)
        try:
            await store.put(place.name, pack(view.secret, place.name, entry), place.ttl_ms)
        except StoreUnavailable:
            self.counts.store_failures += 1
            return STORE_AWAY
        self.counts.stored += 1
        return None


def _place(
    view: CacheView, request: UpstreamRequest, provider: str, identity: Identity | None
) -> _Place | str:
    """The place of the answer, or one word for why this request does not touch the cache."""
    if view.responses is None:
        return "no-policy"
    if identity is None:
        return "no-identity"
    if why := _unfit(request):
        return why
    stamp = view.stamp_of(Scope(KIND, identity.tenant, provider, request.model))
    if stamp is None:
        return "purge-state-unknown"
    scope = tenant_scope(identity.tenant)
    try:
        digest = response_digest(view.secret, scope, provider, request)
    except NotCanonicalError:
        return "not-canonical"
    ttl = view.responses.ttl_for(provider, request.model)
    return _Place(
        view.layout.response(scope, provider, digest), stamp, ttl.milliseconds, view.responses.cacheable
    )


def _unfit(request: UpstreamRequest) -> str | None:
    if request.streaming:
        return "stream"
    if request.body.get("conversation") or request.body.get("background"):
        return "stateful"  # the provider does more than answer, and a hit would leave that out
    return None


def _directives(cache_control: str) -> frozenset[str]:
    """The names of the request's cache directives (RFC 9111)."""
    return frozenset(part.partition("=")[0].strip().lower() for part in cache_control.split(","))
