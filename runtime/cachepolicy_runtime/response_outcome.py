"""What a caller of the response cache gets back, and how ``Cache-Status`` (RFC 9211) says where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import orjson

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.caching import CACHE_NAME

A_co = TypeVar("A_co", covariant=True)

#: Why an answer came from where it did, as ``detail``.
STORE_AWAY = "store-unavailable"
IN_MEMORY = "memory"
IN_PROCESS = "local"
STALE = "stale"
STALE_IF_ERROR = "stale-if-error"
WAITED_ENOUGH = "coalesce-timeout"

_HIT = f"{CACHE_NAME}; hit; ttl="
_NOT_CACHED = Answer(
    504,
    orjson.dumps(
        {
            "type": "about:blank",
            "title": "Gateway Timeout",
            "status": 504,
            "detail": "The request says only-if-cached, and there is no stored answer that it takes.",
        }
    ),
    {"content-type": "application/problem+json"},
)


class Outcome(NamedTuple, Generic[A_co]):
    """An answer and where it came from.

    Attributes:
        answer: the cached answer, or what ``call`` returned, untouched.
        hit: the answer was there, or another request's call brought it: ``call`` was not needed.
        cache_status: value of the ``Cache-Status`` header (RFC 9211).
        age_s: value of the ``Age`` header in seconds; None unless it was stored before.
    """

    answer: A_co
    hit: bool
    cache_status: str
    age_s: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers to add to the answer."""
        age = {} if self.age_s is None else {"Age": str(self.age_s)}
        return {"Cache-Status": self.cache_status, **age}


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a request would meet, without asking, storing or counting anything."""

    result: str
    """``hit``, ``miss``, ``stale`` or ``bypass``."""
    detail: str | None = None
    ttl_s: int | None = None
    age_s: int | None = None


def hit_status(ttl_s: int, detail: str) -> str:
    """Served without asking; ``ttl_s`` is below 0 for what is stale."""
    return f"{_HIT}{ttl_s}; detail={detail}" if detail else f"{_HIT}{ttl_s}"


def forwarded(how: str, *more: str) -> str:
    """Asked for the reason in ``how``, such as ``fwd=uri-miss``."""
    return "; ".join((CACHE_NAME, how, *more))


def bypassed(why: str) -> str:
    return f"{CACHE_NAME}; fwd=bypass; detail={why}"


def not_cached() -> Outcome[Answer]:
    """The answer to ``only-if-cached`` where nothing is cached (RFC 9111, section 5.2.1.7)."""
    return Outcome(_NOT_CACHED, False, f"{CACHE_NAME}; detail=only-if-cached")
