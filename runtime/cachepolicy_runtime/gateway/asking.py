"""What the gateway reads from a request: who asks, and a JSON object that names a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import orjson
from fastapi import Request

from cachepolicy.identity import Identity
from cachepolicy_runtime.asgi.types import BodyTooLargeError, read_body
from cachepolicy_runtime.gateway.errors import RefusedError
from cachepolicy_runtime.keys import MAX_MODEL_LENGTH, UpstreamRequest
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.upstream import ANTHROPIC_VERSION, Upstream

MAX_BODY_BYTES = 16 * 1024 * 1024

#: Of a caller's headers, those that the provider gets; each is in the cache key. Whose organisation and project
#: pay is not the caller's to choose.
_FORWARDED = ("anthropic-beta", "anthropic-version", "openai-beta")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a model, whoever brought it: a caller, or the list of a cache that is warmed.

    Attributes:
        body: a JSON object that names a model.
        headers: names in lower case.
    """

    identity: Identity
    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    async def by(cls, request: Request, runtime: CacheRuntime) -> Self:
        """Raises :class:`RefusedError`: nobody known, no JSON object, no model."""
        identity, body = await caller(runtime, request), await json_object(request)
        named_model(body)
        return cls(identity, body, request.headers)

    @property
    def model(self) -> str:
        return str(self.body["model"])

    def to(self, upstream: Upstream, path: str) -> UpstreamRequest:
        """As it goes to the provider."""
        return UpstreamRequest(
            upstream.url(path),
            self.body,
            headers=forwarded(upstream, self.headers),
            cache_control=self.headers.get("cache-control", ""),
        )


def forwarded(upstream: Upstream, headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers of a caller that change the answer, as the provider gets them."""
    given = {name: headers[name] for name in _FORWARDED if name in headers}
    needed = {"anthropic-version": ANTHROPIC_VERSION} if upstream.provider == "anthropic" else {}
    return {**needed, **given}


async def caller(runtime: CacheRuntime, request: Request) -> Identity:
    """Who asks, from authentication only; raises :class:`RefusedError` (401) for nobody known."""
    who = await runtime.identity(request.scope)
    if who is None:
        raise RefusedError(
            401, "send a valid API key as Authorization: Bearer or x-api-key", "invalid_api_key"
        )
    return who


async def json_object(request: Request) -> dict[str, Any]:
    """The body, which has to be a JSON object."""
    try:
        body = orjson.loads(await read_body(request.receive, MAX_BODY_BYTES))
    except BodyTooLargeError as error:
        raise RefusedError(413, str(error)) from None
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"the body is not JSON: {error.msg}") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "the body must be a JSON object")
    return body


def named_model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_LENGTH:
        raise RefusedError(400, f"model must be a text of 1 to {MAX_MODEL_LENGTH} characters")
    return model
