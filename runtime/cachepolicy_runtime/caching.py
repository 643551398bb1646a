"""What the two caches have in common: the view that one request works with, and how lookups are counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cachepolicy.caches import EmbeddingCache
from cachepolicy.keys import KeyLayout
from cachepolicy.purge import Purge
from cachepolicy.response_cache import ResponseCache
from cachepolicy.stamps import Scope, combine, shapes_of
from cachepolicy_runtime.keys import CacheSecret
from cachepolicy_runtime.store.leases import LeaseStore
from cachepolicy_runtime.store.port import CacheStore

#: How this cache calls itself in ``Cache-Status`` (RFC 9211).
CACHE_NAME = "CachePolicy"

_MAX_SCOPES = 4096


@dataclass(frozen=True, slots=True)
class CacheView:
    """One moment of the policy. A request takes it once and uses it to its end, whatever changes meanwhile.

    Attributes:
        fallback: this process's own memory, which serves while ``store`` is away. Its entries are bound to the
            same stamps: with stamps that are too old neither is used.
        responses, embeddings: the settings; None where the policy has no such cache.
        stamp_of: the combined purge stamp of an entry's scope; None while a purge could have been missed. The same
            object as long as the stamps hold, so that what it says may be remembered.
        leases: who asks a provider for an entry of ``store``.
    """

    layout: KeyLayout
    store: CacheStore
    fallback: CacheStore
    secret: CacheSecret
    responses: ResponseCache | None
    embeddings: EmbeddingCache | None
    stamp_of: Callable[[Scope], str | None]
    leases: LeaseStore


class CombinedStamps:
    """The combined stamps under one state of all stamps, each worked out once.

    A scope holds a model's name, which a caller chooses: at the bound everything is forgotten.
    """

    def __init__(self, stamps: Mapping[str, str], purge: Purge | None) -> None:
        self._stamps = stamps
        self._shapes = shapes_of(stamps)
        self._purge = purge
        self._known: dict[Scope, str] = {}

    def hold_for(self, stamps: Mapping[str, str], purge: Purge | None) -> bool:
        return (self._stamps is stamps or self._stamps == stamps) and self._purge == purge

    def of(self, scope: Scope) -> str:
        found = self._known.get(scope)
        if found is None:
            if len(self._known) >= _MAX_SCOPES:
                self._known.clear()
            found = self._known[scope] = combine(scope, self._stamps, self._purge, self._shapes)
        return found


#: Asked once at the start of each request.
ViewSource = Callable[[], CacheView]


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Tally:
    """Hits and misses in this process."""

    hits: int = 0
    misses: int = 0

    def as_dict(self) -> dict[str, int | float | None]:
        """``ratio`` is hits over lookups, None before the first."""
        lookups = self.hits + self.misses
        ratio = round(self.hits / lookups, 4) if lookups else None
        return {"hits": self.hits, "misses": self.misses, "ratio": ratio}
