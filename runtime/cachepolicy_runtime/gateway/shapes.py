"""How the APIs of OpenAI and Anthropic put an error, whole and in a stream. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson

from cachepolicy_runtime.asgi.types import Scope, header

_ANTHROPIC_PATHS = "/v1/messages"
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}


def speaks_anthropic(scope: Scope) -> bool:
    """By the path, and on paths that both APIs have by the version that Anthropic's clients name."""
    return str(scope["path"]).startswith(_ANTHROPIC_PATHS) or header(scope, b"anthropic-version") is not None


def shaped(anthropic: bool, status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """The body of an error; ``code`` is OpenAI's word for it."""
    if anthropic:
        kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "rate_limit_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_event(anthropic: bool, status: int, message: str, code: str | None = None) -> bytes:
    """An error that ends a stream: both SDKs raise it. It also ends an event that was cut off."""
    name = b"event: error\n" if anthropic else b""
    return b"\n\n" + name + b"data: " + orjson.dumps(shaped(anthropic, status, message, code)) + b"\n\n"
