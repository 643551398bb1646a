"""Why a request is a hit or not: ``POST /cache/explain``. Pure but for the look into the cache, which comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachepolicy_runtime.recent import Nearest

if TYPE_CHECKING:
    from cachepolicy_runtime.response_outcome import Inspection

#: What the words of ``Cache-Status`` mean for somebody who asks why.
WHY = {
    "stream": "It asks for a stream: streams are passed through and never stored.",
    "no-identity": "Authentication knows no tenant for it.",
    "no-policy": "The policy has no response cache.",
    "no-user": "The cache is kept by user, and authentication knows none for it.",
    "off": "The policy's response cache is off.",
    "stateful": "It continues a conversation at the provider, or runs in the background there.",
    "temperature": "Its temperature is above cacheable.maxTemperature.",
    "not-canonical": "Its body has no one spelling, so it has no key.",
    "purge-state-unknown": "A purge could have been missed, so the cache is not used for the moment.",
    "no-cache": "The caller sent Cache-Control: no-cache.",
    "store-unavailable": "The cache server is away, and this process has no answer in its memory.",
}


def explanation(found: Inspection, nearest: Nearest | None) -> dict[str, Any]:
    """The answer of the endpoint. ``nearest`` is the most similar request that this process saw."""
    return {
        "result": found.result,
        "detail": found.detail,
        "why": _why(found, nearest),
        "ttlSeconds": found.ttl_s,
        "ageSeconds": found.age_s,
        "nearest": nearest.as_dict() if nearest is not None and found.result in ("miss", "stale") else None,
    }


def _why(found: Inspection, nearest: Nearest | None) -> str:
    if found.result == "hit":
        return f"The answer is there, {found.age_s} s old, and stays for {found.ttl_s} s."
    if found.detail in WHY:
        return WHY[found.detail]
    if found.result == "bypass":
        return f"The cache is not used: {found.detail}."
    if found.result == "stale":
        return "An answer is there, but it was purged or is past its time to live."
    return _unlike(nearest)


def _unlike(nearest: Nearest | None) -> str:
    if nearest is None:
        return "Nothing is stored under its key, and this process saw nothing like it lately."
    if not nearest.differs:
        return (
            "This process saw the very same request lately, and no answer is stored: the answer was not one to keep "
            "(notStored in /cache/stats counts why), it has expired, or Redis evicted it."
        )
    paths = list(nearest.differs)
    rest = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return f"Its key differs from that of the nearest request seen here in {', '.join(paths[:5])}{rest}."
