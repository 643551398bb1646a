"""Whether a stored answer may serve a request. Pure: the policy, the request's ``Cache-Control`` and a clock decide.

RFC 9111 (HTTP caching, section 5.2.1 for the directives of requests) and RFC 5861 (stale-while-revalidate and
stale-if-error, which the policy gives here).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from cachepolicy.durations import Duration
from cachepolicy.response_cache import ResponseCache

_DIRECTIVE = re.compile(r"\s*([A-Za-z-]+)\s*(?:=\s*\"?(\d{1,9})\"?)?\s*")
#: ``max-stale`` without a number takes whatever is there.
_ANY_AGE = 10**12


class Use(Enum):
    """What a stored answer is good for."""

    FRESH = "fresh"
    REVALIDATE = "revalidate"
    """Serve it, and ask the provider anew in the background."""
    IF_ERROR = "if-error"
    """Serve it only when the provider fails."""
    REFUSED = "refused"
    """Valid, but the request's directives do not take it."""
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Asked:
    """The directives of a request; times in milliseconds."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age_ms: int | None = None
    min_fresh_ms: int = 0
    max_stale_ms: int = 0

    @property
    def any_age(self) -> bool:
        """Whether whatever is fresh will do."""
        return self.max_age_ms is None and not self.min_fresh_ms


NOTHING_ASKED = Asked()


@lru_cache(maxsize=256)
def asked_for(cache_control: str) -> Asked:
    """The directives in a ``Cache-Control`` header; unknown ones and those without their number count as absent."""
    given = {
        match[1].lower(): match[2]
        for part in cache_control.split(",")
        if (match := _DIRECTIVE.fullmatch(part)) is not None
    }
    max_age, min_fresh = given.get("max-age"), given.get("min-fresh")
    max_stale = given.get("max-stale", "0")
    return Asked(
        no_cache="no-cache" in given,
        no_store="no-store" in given,
        only_if_cached="only-if-cached" in given,
        max_age_ms=int(max_age) * 1000 if max_age else None,
        min_fresh_ms=int(min_fresh) * 1000 if min_fresh else 0,
        max_stale_ms=_ANY_AGE if max_stale is None else int(max_stale) * 1000,
    )


def use_of(age_ms: int, ttl_ms: int, rules: ResponseCache, asked: Asked) -> Use:
    """What an answer of this age, fresh for ``ttl_ms``, is good for."""
    left = ttl_ms - age_ms
    too_old = asked.max_age_ms is not None and age_ms > asked.max_age_ms
    if left > 0:
        return Use.REFUSED if too_old or left < asked.min_fresh_ms else Use.FRESH
    if not (too_old or asked.min_fresh_ms):
        if -left < _ms(rules.stale_while_revalidate):
            return Use.REVALIDATE
        if -left < asked.max_stale_ms:
            return Use.FRESH
    return Use.IF_ERROR if -left < _ms(rules.stale_if_error) else Use.EXPIRED


def _ms(window: Duration | None) -> int:
    return 0 if window is None else window.milliseconds


def jittered(ttl_ms: int, percent: int, digest: str) -> int:
    """``ttl_ms`` less up to ``percent`` of it. The digest decides, so it is the same on every replica.

    Answers that are stored together then do not all end together.
    """
    return ttl_ms - ttl_ms * percent * int(digest[:8], 16) // (100 << 32)
