"""``/cache``: health, statistics, and clearing a scope of the caches.

===============  =================  ==============================================================================
``GET /health``  nobody asked       200, ``up`` or ``degraded`` with the reasons: Core answers in both cases
``GET /stats``   nobody asked       what this process did and what it enforces; no tenant, key or prompt
``POST /clear``  the admin token    empties ``{"all": true}`` or any combination of kind, tenant, provider, model
===============  =================  ==============================================================================
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cachepolicy import stamps
from cachepolicy_runtime.asgi.problem import send_problem
from cachepolicy_runtime.asgi.types import (
    BodyTooLargeError,
    Receive,
    Scope,
    Send,
    bearer,
    read_body,
    respond,
    route_path,
)
from cachepolicy_runtime.store.errors import StoreUnavailable

if TYPE_CHECKING:  # runtime.py mounts this application
    from cachepolicy_runtime.runtime import CacheRuntime

_log = logging.getLogger("cachepolicy.endpoints")

_METHODS = {"/health": ("GET", "HEAD"), "/stats": ("GET", "HEAD"), "/clear": ("POST",)}
_MAX_BODY = 16 * 1024
_CHALLENGE = ((b"www-authenticate", b'Bearer realm="cache"'),)


class ClearRequest(BaseModel):
    """What to empty: everything, or whatever all given parts have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    all: Literal[True] | None = None
    kind: Literal["responses", "embeddings"] | None = None
    tenant: str | None = Field(default=None, min_length=1, max_length=256)
    provider: str | None = Field(default=None, min_length=1, max_length=128)
    model: str | None = Field(default=None, min_length=1, max_length=128)

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        named = any((self.kind, self.tenant, self.provider, self.model))
        if named == bool(self.all):
            raise ValueError('say {"all": true}, or at least one of kind, tenant, provider and model')
        return self

    @property
    def scope(self) -> stamps.Scope:
        return stamps.Scope(self.kind, self.tenant, self.provider, self.model)


class Endpoints:
    """An ASGI application to be mounted, usually at ``/cache``."""

    def __init__(self, runtime: CacheRuntime) -> None:
        self._runtime = runtime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        path = route_path(scope)
        allowed = _METHODS.get(path)
        if allowed is None:
            await send_problem(send, 404, "There is /health, /stats and /clear.")
        elif scope["method"] not in allowed:
            allow = ", ".join(allowed)
            await send_problem(send, 405, f"{path} takes {allow}.", [(b"allow", allow.encode())])
        elif path == "/clear":
            await self._clear(scope, receive, send)
        else:
            await _send_json(send, self._runtime.health() if path == "/health" else self._runtime.stats())

    async def _clear(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = bearer(scope)
        if token is None:
            await send_problem(
                send, 401, "Clearing needs Authorization: Bearer and the admin token.", _CHALLENGE
            )
        elif not self._runtime.admin_token.configured:
            await send_problem(
                send,
                403,
                "No admin token is configured: it comes with a CachePolicy or CACHE_ADMIN_TOKEN_FILE.",
            )
        elif not self._runtime.admin_token.accepts(token):
            await send_problem(send, 403, "This is not the admin token.")
        else:
            await self._clear_scope(receive, send)

    async def _clear_scope(self, receive: Receive, send: Send) -> None:
        try:
            wanted = ClearRequest.model_validate_json(await read_body(receive, _MAX_BODY))
        except BodyTooLargeError as error:
            await send_problem(send, 413, str(error))
            return
        except ValidationError as error:
            await send_problem(send, 400, _sentence(error))
            return
        try:
            await self._runtime.clear(wanted.scope)
        except StoreUnavailable as error:
            await send_problem(
                send, 503, f"Nothing was cleared: {error.reason}. Try again.", [(b"retry-after", b"1")]
            )
            return
        cleared = wanted.model_dump(exclude_none=True)
        _log.info("cleared the caches of %s", ", ".join(sorted(cleared)))
        await _send_json(send, {"cleared": cleared})


async def _send_json(send: Send, content: dict[str, Any]) -> None:
    body = orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n"
    await respond(send, 200, body, b"application/json", [(b"cache-control", b"no-store")])


def _sentence(error: ValidationError) -> str:
    """The first mistake, with the field's name."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
