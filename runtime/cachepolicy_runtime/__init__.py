"""The runtime of a CachePolicy inside Core: sessions, rate limits, response and embedding caches.

Start with :meth:`CacheRuntime.from_env`; everything else here is what its methods take and return.
"""

from cachepolicy.identity import Identity
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.asgi.ratelimit import RateLimitMiddleware
from cachepolicy_runtime.asgi.sessions import SessionMiddleware
from cachepolicy_runtime.caller import acting_as
from cachepolicy_runtime.embeddings import Embedded, EmbeddingError, IndexedVector
from cachepolicy_runtime.keys import UpstreamRequest
from cachepolicy_runtime.responses import Outcome
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.session import (
    Session,
    SessionConflict,
    SessionError,
    SessionsUnavailable,
    SessionTooLarge,
)
from cachepolicy_runtime.sessions import SessionInfo
from cachepolicy_runtime.spend import LimitedError
from cachepolicy_runtime.streams import ByteStream

__all__ = [
    "Answer",
    "ByteStream",
    "CacheRuntime",
    "Embedded",
    "EmbeddingError",
    "Identity",
    "IndexedVector",
    "LimitedError",
    "Outcome",
    "RateLimitMiddleware",
    "Session",
    "SessionConflict",
    "SessionError",
    "SessionInfo",
    "SessionMiddleware",
    "SessionTooLarge",
    "SessionsUnavailable",
    "UpstreamRequest",
    "acting_as",
]
