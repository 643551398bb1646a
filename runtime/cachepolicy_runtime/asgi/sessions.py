"""``scope["session"]``: loaded before the app runs, saved before its answer starts."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from cachepolicy_runtime.asgi.problem import send_problem
from cachepolicy_runtime.asgi.session_carriers import Presented, presented, told, varies_on
from cachepolicy_runtime.asgi.types import App, Header, Message, Receive, Scope, Send
from cachepolicy_runtime.session import Session, SessionConflict, SessionError, SessionsUnavailable
from cachepolicy_runtime.sessions import SessionPolicy, Sessions

if TYPE_CHECKING:  # runtime.py mounts this package's endpoints
    from cachepolicy_runtime.runtime import CacheRuntime

_log = logging.getLogger("cachepolicy.sessions")

_RETRY: tuple[Header, ...] = ((b"retry-after", b"1"),)
#: Where a request keeps the session that is on its way.
_EARLY = "cachepolicy.session"


class Opening:
    """The session of one request, on its way from the store."""

    def __init__(self, sessions: Sessions, policy: SessionPolicy, brought: Presented) -> None:
        self.policy = policy
        self.by_header = brought.by_header
        self._open = asyncio.create_task(_first(sessions, policy, brought.ids))

    async def session(self) -> Session:
        return await self._open

    def cancel(self) -> None:
        """Nobody waits for it any more; an error of it is nobody's either."""
        if not self._open.cancel() and not self._open.cancelled():
            self._open.exception()


def start_session(runtime: CacheRuntime, scope: Scope) -> Opening | None:
    """Ask for the session of a request before the middleware that needs it is reached.

    For middleware around :class:`SessionMiddleware` that asks Redis as well: what both have to say then leaves
    in one write. None where no session has to be asked for. Whoever calls this cancels what it gets at the end.
    """
    policy = runtime.session_policy
    if policy is None or not runtime.sessions.opened_by_middleware or "session" in scope:
        return None
    brought = presented(scope, policy.rules)
    if not brought.ids:
        return None
    opening: Opening = Opening(runtime.sessions, policy, brought)
    scope[_EARLY] = opening
    return opening


class SessionMiddleware:
    """Gives the app a :class:`~cachepolicy_runtime.session.Session`, which reads and changes like a dict.

    Where the policy has no sessions there is no ``scope["session"]``. What the app changes after its answer
    has started is not saved. While the store is away the policy decides: a change that it does not allow, or
    a session that it does not let anybody read, is answered with 503.
    """

    def __init__(self, app: App, *, runtime: CacheRuntime) -> None:
        self._app = app
        self._runtime = runtime
        runtime.sessions.opened_by_middleware = True
        runtime.installed("sessions")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy = self._runtime.session_policy
        early: Opening | None = scope.pop(_EARLY, None)
        if scope["type"] != "http" or (policy is None and early is None):
            await self._app(scope, receive, send)
            return
        try:
            if early is not None:
                policy, by_header, session = early.policy, early.by_header, await early.session()
            else:
                assert policy is not None  # noqa: S101 - asked for above
                ids, by_header = presented(scope, policy.rules)
                session = await _first(self._runtime.sessions, policy, ids)
        except SessionsUnavailable as error:
            await _unavailable(send, error)
            return
        scope["session"] = session
        answer = _SavingAnswer(self._runtime.sessions, policy, session, send, by_header=by_header)
        try:
            await self._app(scope, receive, answer.send)
        except SessionError as error:
            # Of Sessions.update, or of a list of sessions, in an app that leaves it to us.
            if answer.started:
                raise
            await answer.fail(error)


async def _first(sessions: Sessions, policy: SessionPolicy, ids: tuple[str, ...]) -> Session:
    """The first of these sessions that there is, or a new one."""
    for session_id in ids[:-1]:
        session = await sessions.open(policy, session_id)
        if not session.is_new:
            return session
    return await sessions.open(policy, ids[-1] if ids else None)


class _SavingAnswer:
    """Saves the session when the answer starts. If that fails, the app's answer is replaced by an error."""

    def __init__(
        self, sessions: Sessions, policy: SessionPolicy, session: Session, send: Send, *, by_header: bool
    ) -> None:
        self._sessions = sessions
        self._policy = policy
        self._session = session
        self._send = send
        self._by_header = by_header
        self._replaced = False
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif not self._replaced:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        self.started = True
        try:
            change = await self._sessions.commit(self._policy, self._session)
        except SessionError as error:
            self._replaced = True
            await self.fail(error)
            return
        headers = list(message.get("headers", ()))
        if self._session.accessed or change is not None:
            headers.append((b"vary", varies_on(self._policy.rules).encode("ascii")))
        if change is not None:
            # An answer that gives somebody a session is nothing for a cache on the way.
            headers.append(told(self._policy.rules, by_header=self._by_header, value=change.value))
            if not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
        message["headers"] = headers
        await self._send(message)

    async def fail(self, error: SessionError) -> None:
        if isinstance(error, SessionsUnavailable):
            await _unavailable(self._send, error)
        elif isinstance(error, SessionConflict):
            await send_problem(self._send, 409, str(error))
        else:
            _log.error("a session was not saved: %s", error)
            await send_problem(self._send, 500, str(error))


async def _unavailable(send: Send, error: SessionsUnavailable) -> None:
    await send_problem(send, 503, f"{error}. Try again shortly.", _RETRY)
