"""What a document may require of its reader.

A document lists in ``requires`` the capabilities without which it would be enforced wrongly. A reader that
lacks one keeps its last good document and says so. A name once given keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable

SESSIONS = "sessions"
SESSIONS_HEADER = "sessions/header"
SESSIONS_COOKIE_SCOPE = "sessions/cookieScope"
RATE_LIMITS_REQUESTS = "rateLimits/requests"
RATE_LIMITS_TOKENS = "rateLimits/tokens"
RATE_LIMITS_CONCURRENCY = "rateLimits/concurrency"
RATE_LIMITS_MODEL = "rateLimits/model"
RATE_LIMITS_ROUTE = "rateLimits/route"
RATE_LIMITS_HEADER = "rateLimits/header"
RATE_LIMITS_MODE = "rateLimits/mode"
TRUSTED_PROXIES = "trustedProxies"
RESPONSE_CACHE = "responseCache"
RESPONSE_CACHE_MODE = "responseCache/mode"
RESPONSE_CACHE_SCOPE = "responseCache/scope"
RESPONSE_CACHE_TEMPERATURE = "responseCache/temperature"
EMBEDDING_CACHE = "embeddingCache"
EMBEDDING_CACHE_MODE = "embeddingCache/mode"
PURGE = "purge"
PURGE_SCOPES = "purge/scopes"

#: Everything that this version of the contract can ask for.
ALL = frozenset(
    {
        SESSIONS,
        SESSIONS_HEADER,
        SESSIONS_COOKIE_SCOPE,
        RATE_LIMITS_REQUESTS,
        RATE_LIMITS_TOKENS,
        RATE_LIMITS_CONCURRENCY,
        RATE_LIMITS_MODEL,
        RATE_LIMITS_ROUTE,
        RATE_LIMITS_HEADER,
        RATE_LIMITS_MODE,
        TRUSTED_PROXIES,
        RESPONSE_CACHE,
        RESPONSE_CACHE_MODE,
        RESPONSE_CACHE_SCOPE,
        RESPONSE_CACHE_TEMPERATURE,
        EMBEDDING_CACHE,
        EMBEDDING_CACHE_MODE,
        PURGE,
        PURGE_SCOPES,
    }
)


def missing(required: Iterable[str], known: frozenset[str]) -> tuple[str, ...]:
    """The required capabilities that ``known`` lacks, sorted."""
    return tuple(sorted(set(required) - known))
