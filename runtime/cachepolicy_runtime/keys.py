"""The cache key of a request to a provider. Pure.

A key is HMAC-SHA256 over length-prefixed parts, so that no part can run into the next and that nobody who
reads key names in Redis can test guesses of a prompt. The body enters whole, minus a short list of fields
that provably change nothing in the answer: a field that a provider adds tomorrow changes the key by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from cachepolicy_runtime.jcs import NotCanonicalError, canonical_json
from cachepolicy_runtime.macs import CacheSecret, framed

__all__ = [
    "IGNORED_FIELDS",
    "KEY_VERSION",
    "LISTED_HEADERS",
    "MAX_MODEL_LENGTH",
    "CacheSecret",
    "NotCanonicalError",
    "UpstreamRequest",
    "canonical_json",
    "response_digest",
    "upstream_place",
]

#: Part of every key: a change of the derivation leaves the old entries behind as misses.
KEY_VERSION = b"2"

#: Request headers that change an answer. Others (tracing, authorization, user agent) do not.
LISTED_HEADERS = (
    "anthropic-beta",
    "anthropic-version",
    "openai-beta",
    "openai-organization",
    "openai-project",
)

#: Fields at the top of the body that do not change the answer's content:
IGNORED_FIELDS = frozenset(
    {
        "stream_options",  # shape of a stream; streams are never stored
        "user",  # end-user label for the provider's abuse detection
        "safety_identifier",  # its successor
        "metadata",  # labels kept beside the request
        "prompt_cache_key",  # routing hint for the provider's own prompt cache
        "prompt_cache_retention",  # how long that cache keeps the prompt
        "store",  # whether the provider keeps a copy
        "service_tier",  # price and latency class
    }
)

#: Names of models become parts of keys and stamps, and callers choose them.
MAX_MODEL_LENGTH = 256


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """A request as it goes to the provider.

    Attributes:
        url: origin and path (and query, where there is one) that it is sent to.
        body: the JSON object that is sent. Send exactly this value: the key is derived from it, and a text
            with a field given twice means different things to different parsers.
        headers: what is sent with it, names in any case; only :data:`LISTED_HEADERS` count.
        cache_control: the caller's ``Cache-Control``; ``no-cache`` and ``no-store`` are honoured.
    """

    url: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    cache_control: str = ""

    @property
    def model(self) -> str | None:
        """The model that is asked for; None where the body names none that could be one."""
        model = self.body.get("model")
        return model if isinstance(model, str) and 0 < len(model) <= MAX_MODEL_LENGTH else None

    @property
    def streaming(self) -> bool:
        """Anything but an absent, false or null ``stream`` is taken for a stream."""
        return bool(self.body.get("stream"))


def response_digest(secret: CacheSecret, scope: str, provider: str, request: UpstreamRequest) -> str:
    """The digest in the key of a response, 64 hex digits; raises :class:`NotCanonicalError` where the body
    has none."""
    body = {name: value for name, value in request.body.items() if name not in IGNORED_FIELDS}
    if not body.get("stream", True):
        del body["stream"]  # false and null say what its absence says
    place = _place(scope, provider, request.url)
    return secret.names.digest(place, framed(_listed(request.headers), canonical_json(body))).hex()


@lru_cache(maxsize=1024)
def _place(scope: str, provider: str, url: str) -> bytes:
    """What all requests of one tenant to one endpoint have in common."""
    return framed(KEY_VERSION, b"response", scope.encode(), provider.encode(), upstream_place(url).encode())


def _listed(headers: Mapping[str, str]) -> bytes:
    if not headers:
        return b"[]"
    lowered = {name.lower(): value for name, value in headers.items()}
    return canonical_json([[name, lowered[name].strip()] for name in LISTED_HEADERS if name in lowered])


def upstream_place(url: str) -> str:
    """Origin, path and query; scheme and host in lower case, a default port, user and fragment left out."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    port = f":{parts.port}" if parts.port not in (None, default) else ""
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path or '/'}{query}"
