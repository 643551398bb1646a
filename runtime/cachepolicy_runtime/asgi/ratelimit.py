"""Admission: a request passes if every limit that applies to it has room, else it never reaches the app."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from cachepolicy_runtime.asgi.problem import CONTENT_TYPE
from cachepolicy_runtime.asgi.sessions import start_session
from cachepolicy_runtime.asgi.types import App, Header, Message, Receive, Scope, Send, respond
from cachepolicy_runtime.caller import serve
from cachepolicy_runtime.ratelimit_answer import headers, problem, status_of

if TYPE_CHECKING:  # runtime.py mounts this package's endpoints
    from cachepolicy_runtime.runtime import CacheRuntime


class RateLimitMiddleware:
    """Answers 429 (503 where the policy says so) with ``RateLimit``, ``RateLimit-Policy`` and ``Retry-After``,
    and adds the first two to every answer that it lets through. Bodies are never touched.

    ``exempt`` are paths that no limit applies to, such as those of probes: a limit that matches everything
    would otherwise let the kubelet restart Core.

    Around a :class:`SessionMiddleware` it lets that ask Redis at the same time: both leave in one write.
    """

    def __init__(self, app: App, *, runtime: CacheRuntime, exempt: Collection[str] = ()) -> None:
        self._app = app
        self._runtime = runtime
        self._exempt = frozenset(exempt)
        runtime.installed("rateLimits")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._exempt:
            await serve(self._app, scope, receive, send)
            return
        opening = start_session(self._runtime, scope)
        try:
            decision = await self._runtime.admit(scope)
            told = headers(decision)
            if not decision.allowed:
                await respond(send, status_of(decision), problem(decision), CONTENT_TYPE, told)
            else:
                await serve(self._app, scope, receive, _adding(send, told) if told else send)
        finally:
            if opening is not None:
                opening.cancel()


def _adding(send: Send, told: list[Header]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *told]
        await send(message)

    return sending
