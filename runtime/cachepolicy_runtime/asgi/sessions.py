"""``scope["session"]``: loaded before the app runs, saved before its answer starts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cachepolicy.sessions import Cookie
from cachepolicy_runtime.asgi.problem import send_problem
from cachepolicy_runtime.asgi.types import App, Header, Message, Receive, Scope, Send
from cachepolicy_runtime.caller import serve
from cachepolicy_runtime.session import Session, SessionError, SessionsUnavailable, issued
from cachepolicy_runtime.sessions import CookieChange, SessionPolicy, Sessions

if TYPE_CHECKING:  # runtime.py mounts this package's endpoints
    from cachepolicy_runtime.runtime import CacheRuntime

_log = logging.getLogger("cachepolicy.sessions")

_RETRY: tuple[Header, ...] = ((b"retry-after", b"1"),)


class SessionMiddleware:
    """Gives the app a :class:`~cachepolicy_runtime.session.Session`, which reads and changes like a dict.

    Where the policy has no sessions there is no ``scope["session"]``. What the app changes after its answer
    has started is not saved. While the store is away the policy decides: a change that it does not allow, or
    a session that it does not let anybody read, is answered with 503.
    """

    def __init__(self, app: App, *, runtime: CacheRuntime) -> None:
        self._app = app
        self._runtime = runtime
        runtime.installed("sessions")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy = self._runtime.session_policy
        if scope["type"] != "http" or policy is None:
            await serve(self._app, scope, receive, send)
            return
        try:
            session = await self._runtime.sessions.open(policy, _cookie(scope, policy.rules.cookie.name))
        except SessionsUnavailable as error:
            await send_problem(send, 503, f"{error}. Try again shortly.", _RETRY)
            return
        scope["session"] = session
        answer = _SavingAnswer(self._runtime.sessions, policy, session, send)
        await serve(self._app, scope, receive, answer.send)


class _SavingAnswer:
    """Saves the session when the answer starts. If that fails, the app's answer is replaced by an error."""

    def __init__(self, sessions: Sessions, policy: SessionPolicy, session: Session, send: Send) -> None:
        self._sessions = sessions
        self._policy = policy
        self._session = session
        self._send = send
        self._replaced = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._start(message)
        elif not self._replaced:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        try:
            change = await self._sessions.commit(self._policy, self._session)
        except SessionsUnavailable as error:
            self._replaced = True
            await send_problem(self._send, 503, f"{error}. Try again shortly.", _RETRY)
        except SessionError as error:
            self._replaced = True
            _log.error("a session was not saved: %s", error)
            await send_problem(self._send, 500, str(error))
        else:
            if change is not None:
                message["headers"] = _with_cookie(list(message.get("headers", ())), self._policy, change)
            await self._send(message)


def _with_cookie(headers: list[Header], policy: SessionPolicy, change: CookieChange) -> list[Header]:
    """An answer that sets a session's cookie is nothing for a cache on the way."""
    value = set_cookie(policy.rules.cookie, change.value, policy.absolute_ms // 1000)
    headers.append((b"set-cookie", value.encode("ascii")))
    if not any(name.lower() == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    return headers


def set_cookie(cookie: Cookie, value: str | None, max_age_s: int) -> str:
    """``Set-Cookie`` (RFC 6265bis); a value of None removes it."""
    parts = [
        f"{cookie.name}={value or ''}",
        f"Max-Age={max_age_s if value else 0}",
        "Path=/",
        "HttpOnly",
        f"SameSite={cookie.same_site.value}",
    ]
    return "; ".join(parts + (["Secure"] if cookie.secure else []))


def _cookie(scope: Scope, name: str) -> str | None:
    """The first value of this name that looks like an id of ours: another host may have set one as well."""
    for key, value in scope["headers"]:
        if key.lower() != b"cookie":
            continue
        for pair in value.decode("latin-1").split(";"):
            found, _, content = pair.strip().partition("=")
            if found == name and issued(content):
                return str(content)
    return None
