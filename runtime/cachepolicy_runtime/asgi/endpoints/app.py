"""Which handler answers which path, and who may ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachepolicy_runtime import exposition
from cachepolicy_runtime.asgi.endpoints import openapi
from cachepolicy_runtime.asgi.endpoints.answers import RefusedError, Reply, json_reply
from cachepolicy_runtime.asgi.endpoints.clear import ClearHandler
from cachepolicy_runtime.asgi.endpoints.explain import ExplainHandler, Resolve
from cachepolicy_runtime.asgi.endpoints.warm import Warm, WarmHandler
from cachepolicy_runtime.asgi.types import (
    BodyTooLargeError,
    Receive,
    Scope,
    Send,
    bearer,
    read_body,
    route_path,
)

if TYPE_CHECKING:  # runtime.py mounts this application
    from cachepolicy_runtime.runtime import CacheRuntime

_CHALLENGE = ((b"www-authenticate", b'Bearer realm="cache"'),)


@dataclass(frozen=True, slots=True)
class _Open:
    """Answers whoever asks."""

    answer: Callable[[], Awaitable[Reply]]
    methods = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class _Admin:
    """Answers who has the admin token. ``max_body`` in bytes."""

    answer: Callable[[bytes], Awaitable[Reply]]
    max_body: int
    methods = ("POST",)


class Endpoints:
    """An ASGI application to be mounted, usually at ``/cache``.

    Args:
        warm: sends one request through the application, None where the application gives no way.
        resolve: where the application sends what it is asked at a path, None where it does not tell.
    """

    def __init__(
        self, runtime: CacheRuntime, warm: Warm | None = None, resolve: Resolve | None = None
    ) -> None:
        self._runtime = runtime
        self._routes: dict[str, _Open | _Admin] = {
            "/health": _Open(self._health),
            "/stats": _Open(self._stats),
            "/metrics": _Open(self._metrics),
            "/openapi.json": _Open(self._openapi),
            "/clear": _Admin(ClearHandler(runtime), 16 << 10),
            "/warm": _Admin(WarmHandler(warm), 8 << 20),
            "/explain": _Admin(ExplainHandler(runtime, resolve), 4 << 20),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        try:
            reply = await self._reply(scope, receive)
        except RefusedError as refused:
            reply = refused.reply
        await reply.send(send)

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        path = route_path(scope)
        route = self._routes.get(path)
        if route is None:
            raise RefusedError(404, f"There is {', '.join(self._routes)}.")
        if scope["method"] not in route.methods:
            allow = ", ".join(route.methods)
            raise RefusedError(405, f"{path} takes {allow}.", [(b"allow", allow.encode())])
        if isinstance(route, _Open):
            return await route.answer()
        self._check_token(scope)
        try:
            body = await read_body(receive, route.max_body)
        except BodyTooLargeError as error:
            raise RefusedError(413, str(error)) from None
        return await route.answer(body)

    def _check_token(self, scope: Scope) -> None:
        token, admin = bearer(scope), self._runtime.admin_token
        if token is None:
            raise RefusedError(401, "This needs Authorization: Bearer and the admin token.", _CHALLENGE)
        if not admin.configured:
            raise RefusedError(
                403, "No admin token is configured: it comes with a CachePolicy or CACHE_ADMIN_TOKEN_FILE."
            )
        if not admin.accepts(token):
            raise RefusedError(403, "This is not the admin token.")

    async def _health(self) -> Reply:
        return json_reply(self._runtime.health())

    async def _stats(self) -> Reply:
        return json_reply(await self._runtime.stats())

    async def _metrics(self) -> Reply:
        text = exposition.text(await self._runtime.stats(), self._runtime.health())
        return Reply(200, text.encode(), exposition.CONTENT_TYPE)

    async def _openapi(self) -> Reply:
        return json_reply(openapi.DOCUMENT)
