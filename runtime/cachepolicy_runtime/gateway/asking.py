"""What the gateway reads from a request: who asks, and a JSON object that names a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Request

from cachepolicy.identity import Identity
from cachepolicy_runtime.asgi.types import BodyTooLargeError, read_body
from cachepolicy_runtime.gateway.errors import RefusedError
from cachepolicy_runtime.keys import MAX_MODEL_LENGTH
from cachepolicy_runtime.runtime import CacheRuntime

MAX_BODY_BYTES = 16 * 1024 * 1024


async def caller(runtime: CacheRuntime, request: Request) -> Identity:
    """Who asks, from authentication only; raises :class:`RefusedError` (401) for nobody known."""
    who = await runtime.identity(request.scope)
    if who is None:
        raise RefusedError(401, "send a valid API key as Authorization: Bearer", "invalid_api_key")
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
