"""The cache key of a request to a provider. Pure.

A key is HMAC-SHA256 over length-prefixed parts, so that no part can run into the next and that nobody who
reads key names in Redis can test guesses of a prompt. The body enters whole, minus a short list of fields
that provably change nothing in the answer: a field that a provider adds tomorrow changes the key by itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson

#: Part of every key: a change of the derivation leaves the old entries behind as misses.
KEY_VERSION = b"1"

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
        "store",  # whether the provider keeps a copy
        "service_tier",  # price and latency class
    }
)

#: Deeper bodies are not cached: orjson stops at 254, and no provider needs a tenth of that.
MAX_DEPTH = 100
SEAL_BYTES = 16
#: Names of models become parts of keys and stamps, and callers choose them.
MAX_MODEL_LENGTH = 256
_EXACT_FLOAT = 2.0**63
_MIN_INT, _MAX_INT = -(2**63), 2**64


class NotCanonicalError(ValueError):
    """The body has no canonical form, so the request is not cached. The message names the reason only."""


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


@dataclass(frozen=True, slots=True)
class CacheSecret:
    """The two keys that are derived from the cache's HMAC key: one for names, one to seal values."""

    naming: bytes = field(repr=False)
    sealing: bytes = field(repr=False)

    @classmethod
    def derive(cls, secret: bytes) -> CacheSecret:
        return cls(
            naming=hmac.digest(secret, b"cachepolicy cache names", "sha256"),
            sealing=hmac.digest(secret, b"cachepolicy cache values", "sha256"),
        )

    def digest(self, parts: Iterable[bytes]) -> str:
        """HMAC-SHA256 over the parts, each behind its length; 64 hex digits."""
        message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self.naming, message, "sha256").hex()

    def seal(self, name: str, payload: bytes) -> bytes:
        """16 bytes that only a holder of the key can make, for this payload under this name."""
        encoded = name.encode()
        message = len(encoded).to_bytes(4, "big") + encoded + payload
        return hmac.digest(self.sealing, message, "sha256")[:SEAL_BYTES]


def response_digest(secret: CacheSecret, scope: str, provider: str, request: UpstreamRequest) -> str:
    """The digest in the key of a response; raises :class:`NotCanonicalError` where the body has none."""
    body = {key: value for key, value in request.body.items() if key not in IGNORED_FIELDS}
    if not body.get("stream", True):
        del body["stream"]  # false and null say what its absence says
    headers = {name.lower(): value for name, value in request.headers.items()}
    listed = [(name, headers[name].strip()) for name in LISTED_HEADERS if name in headers]
    return secret.digest(
        [
            KEY_VERSION,
            b"response",
            scope.encode(),
            provider.encode(),
            upstream_place(request.url).encode(),
            canonical_json(listed),
            canonical_json(body),
        ]
    )


@dataclass(frozen=True, slots=True)
class EmbeddingQuery:
    """What a provider is asked to make of each text; None where it is not told."""

    model: str
    provider: str | None = None
    dimensions: int | None = None
    input_type: str | None = None


def embedding_digest(secret: CacheSecret, scope: str, query: EmbeddingQuery, text: str) -> str:
    """The digest in the key of one embedding. The text is taken as it is: case and spaces count."""
    return secret.digest(
        [
            KEY_VERSION,
            b"embedding",
            scope.encode(),
            canonical_json([query.provider, query.model, query.dimensions, query.input_type]),
            text.encode("utf-8", "surrogatepass"),
        ]
    )


def upstream_place(url: str) -> str:
    """Origin, path and query; scheme and host in lower case, a default port, user and fragment left out."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    port = f":{parts.port}" if parts.port not in (None, default) else ""
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path or '/'}{query}"


def canonical_json(value: Any) -> bytes:
    """One text for all spellings of one JSON value: RFC 8785, with two differences.

    Keys are sorted by their UTF-8 bytes, which is as good an order as any. Whole numbers keep all 64 bits
    (RFC 8785 rounds them to 53, and two seeds would become one); numbers beyond are refused.
    """
    try:
        return orjson.dumps(_canonical(value, MAX_DEPTH), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise NotCanonicalError("the body holds text that is not valid Unicode") from None


def _canonical(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if _MIN_INT <= value < _MAX_INT:
            return value
        raise NotCanonicalError("the body holds a whole number of more than 64 bits")
    if isinstance(value, float):
        return _canonical_float(value)
    if depth == 0:
        raise NotCanonicalError(f"the body is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise NotCanonicalError("the body holds a key that is not a string")
        return {key: _canonical(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, depth - 1) for item in value]
    raise NotCanonicalError(f"the body holds a {type(value).__name__}, which JSON does not know")


def _canonical_float(value: float) -> float | int:
    """``1.0`` is ``1``, ``-0.0`` is ``0``."""
    if not -_EXACT_FLOAT <= value < _EXACT_FLOAT:
        raise NotCanonicalError("the body holds a number that is not finite or needs more than 64 bits")
    return int(value) if value.is_integer() else value
