"""What a document may require of its reader.

A document lists in ``requires`` the capabilities without which it would be enforced wrongly. A reader that
lacks one keeps its last good document and says so. A name once given keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable

SESSIONS = "sessions"
RATE_LIMITS_REQUESTS = "rateLimits/requests"
RESPONSE_CACHE = "responseCache"
EMBEDDING_CACHE = "embeddingCache"
PURGE = "purge"

#: Everything that this version of the contract can ask for.
ALL = frozenset({SESSIONS, RATE_LIMITS_REQUESTS, RESPONSE_CACHE, EMBEDDING_CACHE, PURGE})


def missing(required: Iterable[str], known: frozenset[str]) -> tuple[str, ...]:
    """The required capabilities that ``known`` lacks, sorted."""
    return tuple(sorted(set(required) - known))
