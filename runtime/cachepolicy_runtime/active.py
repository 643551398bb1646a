"""What one policy document puts in force: stores, limits, sessions. Replaced as a whole, never changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cachepolicy.caches import EmbeddingCache
from cachepolicy.document import CONTRACT, DocumentRedis, PolicyDocument, Reading
from cachepolicy.keys import KeyLayout
from cachepolicy.names import Role
from cachepolicy.response_cache import ResponseCache
from cachepolicy.sessions import Sessions as SessionRules
from cachepolicy_runtime.asgi.address import ProxyTrust
from cachepolicy_runtime.ratelimit import LimitCounts, Limits, RateLimiter, compile_limits
from cachepolicy_runtime.sessions import SessionPolicy
from cachepolicy_runtime.settings import RedisTarget, RuntimeSettings
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.stores import MemoryStores, Stores

#: Name of what holds where no document says anything.
BUILT_IN = "built-in"


@dataclass(frozen=True, slots=True)
class Active:
    """Everything that is in force, replaced as a whole.

    Attributes:
        reading: the document, or the built-in defaults.
        places: what the stores were connected to, to see whether a new document moves them.
    """

    reading: Reading
    keys: KeyLayout
    places: Mapping[Role, RedisTarget]
    stores: Stores
    limiter: RateLimiter
    limits: Limits
    proxies: ProxyTrust
    sessions: SessionPolicy | None

    @property
    def document(self) -> PolicyDocument:
        return self.reading.document

    @property
    def has_cache(self) -> bool:
        return bool(self.document.response_cache or self.document.embedding_cache)


class Activation:
    """Makes an :class:`Active` of a document.

    Args:
        memory: the stores of this process, for what the policy has no server for.
        live: processes that share the limits.
        limit_counts: what the limits count of their decisions.
        environment_serves: the servers of the environment stand in for those that a document does not name.
    """

    def __init__(
        self,
        settings: RuntimeSettings,
        memory: MemoryStores,
        live: Callable[[], int],
        limit_counts: LimitCounts,
        *,
        environment_serves: bool,
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._live = live
        self._limit_counts = limit_counts
        self._environment_serves = environment_serves
        self._fallback = MemoryLimitStore()

    def of(self, reading: Reading, before: Active | None) -> Active:
        """What ``reading`` puts in force; the stores of ``before`` stay where it does not move them.

        Raises ``ValueError`` for a document whose servers or limits cannot be used.
        """
        document = reading.document
        keys, places = document.keys, self._places(document)
        if before is not None and before.keys == keys and before.places == places:
            stores, limiter = before.stores, before.limiter
        else:
            stores = Stores.connect(places, keys, self._memory, self._settings.deadline_s)
            limiter = RateLimiter(stores.limits, self._fallback, self._live, self._limit_counts)
        return Active(
            reading=reading,
            keys=keys,
            places=places,
            stores=stores,
            limiter=limiter,
            limits=compile_limits(document.rate_limits or {}),
            proxies=ProxyTrust(document.trusted_proxies),
            sessions=SessionPolicy(keys, document.sessions) if document.sessions is not None else None,
        )

    def _places(self, document: PolicyDocument) -> dict[Role, RedisTarget]:
        """The servers that the document names, else those of the environment where no document has to."""
        places: dict[Role, RedisTarget] = {}
        for role, fixed in ((Role.STATE, self._settings.state), (Role.CACHE, self._settings.cache)):
            endpoint = document.redis.endpoint(role)
            if endpoint is not None:
                places[role] = self._settings.target(endpoint.url)
            elif fixed is not None and self._environment_serves:
                places[role] = fixed
        return places


def built_in(settings: RuntimeSettings) -> Reading:
    """What holds where there is no policy: sessions and caches with their defaults, and no limits."""
    document = PolicyDocument(
        contract=CONTRACT,
        policy=settings.key_prefix,
        uid=BUILT_IN,
        revision=BUILT_IN,
        sequence=0,
        redis=DocumentRedis(key_prefix=settings.key_prefix),
        sessions=SessionRules(),
        response_cache=ResponseCache(),
        embedding_cache=EmbeddingCache(),
    )
    return Reading(document, ())
