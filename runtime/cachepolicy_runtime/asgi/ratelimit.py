"""Admission: a request passes if every limit that applies to it has room, else it never reaches the app."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from cachepolicy_runtime.asgi.problem import CONTENT_TYPE
from cachepolicy_runtime.asgi.sessions import start_session
from cachepolicy_runtime.asgi.types import App, Header, Message, Receive, Scope, Send, respond
from cachepolicy_runtime.caller import serve
from cachepolicy_runtime.ratelimit import Decision
from cachepolicy_runtime.ratelimit.held import HeldLease
from cachepolicy_runtime.ratelimit_answer import headers, problem, status_of

if TYPE_CHECKING:  # runtime.py mounts this package's endpoints
    from cachepolicy_runtime.runtime import CacheRuntime


#: Makes the body of a refusal and says its content type.
Refusal = Callable[[Scope, Decision], tuple[bytes, bytes]]


def _problem(scope: Scope, decision: Decision) -> tuple[bytes, bytes]:
    return problem(decision), CONTENT_TYPE


class RateLimitMiddleware:
    """Answers 429 (503 where the policy says so) with ``RateLimit``, ``RateLimit-Policy`` and ``Retry-After``,
    and adds the first two to every answer that it lets through. Bodies are never touched.

    A request holds its place under limits of concurrency until the last byte of its answer was sent, or until it
    ends in another way: the caller leaves, or the application fails.

    ``exempt`` are paths that no limit applies to, such as those of probes: a limit that matches everything
    would otherwise let the kubelet restart Core. ``refusal`` makes another body for a refusal.

    Around a :class:`SessionMiddleware` it lets that ask Redis at the same time: both leave in one write.
    """

    def __init__(
        self,
        app: App,
        *,
        runtime: CacheRuntime,
        exempt: Collection[str] = (),
        refusal: Refusal = _problem,
    ) -> None:
        self._app = app
        self._runtime = runtime
        self._exempt = frozenset(exempt)
        self._refusal = refusal
        runtime.installed("rateLimits")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._exempt:
            await serve(self._app, scope, receive, send)
            return
        opening = start_session(self._runtime, scope)
        lease = None
        try:
            decision = await self._runtime.admit(scope)
            if decision.rates:
                send = _adding(send, headers(decision))
            lease = decision.lease
            if decision.allowed:
                await serve(self._app, scope, receive, send if lease is None else _releasing(send, lease))
            else:
                await self._refuse(scope, send, decision)
        finally:
            if lease is not None:
                lease.release()
            if opening is not None:
                opening.cancel()

    async def _refuse(self, scope: Scope, send: Send, decision: Decision) -> None:
        body, content_type = self._refusal(scope, decision)
        told = () if decision.rates else headers(decision)
        await respond(send, status_of(decision), body, content_type, told)


def _adding(send: Send, told: list[Header]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *told]
        await send(message)

    return sending


def _releasing(send: Send, lease: HeldLease) -> Send:
    """What an application does after its answer, background tasks included, takes nobody's place."""

    async def sending(message: Message) -> None:
        await send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            lease.release()

    return sending
