"""The middleware: what reaches the app, what is added to its answer, and that nothing is held back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.caches import LAYOUT

from cachepolicy.sessions import Cookie, SameSite, SessionStoreFailure
from cachepolicy.sessions import Sessions as SessionRules
from cachepolicy_runtime.asgi.ratelimit import RateLimitMiddleware
from cachepolicy_runtime.asgi.sessions import SessionMiddleware, set_cookie
from cachepolicy_runtime.asgi.types import App, Message, Receive, Scope, Send, bearer, client_ip, route_path
from cachepolicy_runtime.ratelimit import Decision, Outcome, RateReport
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.session import Session
from cachepolicy_runtime.sessions import SessionPolicy, Sessions
from cachepolicy_runtime.store.memory import MemorySessionStore
from cachepolicy_runtime.store.port import SessionEntry, SessionRead, SessionSaved, StoreUnavailable

ROOM = RateReport("per-user", 5, 60_000, 3, 12_000, 0)
FULL = RateReport("per-user", 5, 60_000, 0, 60_000, 12_000)


class StubRuntime:
    """Only what the middleware asks a runtime for."""

    def __init__(
        self,
        decision: Decision | None = None,
        sessions: Sessions | None = None,
        rules: SessionRules | None = None,
    ) -> None:
        self.decision = decision or Decision(Outcome.ADMITTED)
        self.sessions = sessions or Sessions(MemorySessionStore())
        self.session_policy = SessionPolicy(LAYOUT, rules) if rules is not None else None
        self.asked = 0
        self.enforced: list[str] = []

    def installed(self, section: str) -> None:
        self.enforced.append(section)

    async def admit(self, scope: Scope) -> Decision:
        self.asked += 1
        return self.decision

    def __call__(self) -> CacheRuntime:
        return cast(CacheRuntime, self)


class Client:
    """Calls an app without a server and keeps every message, in order."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.sent: list[Message] = []
        self.cookie: str | None = None

    async def get(self, path: str = "/", kind: str = "http", **headers: str) -> Client:
        given = {"cookie": self.cookie, **headers} if self.cookie else headers
        scope: Scope = {
            "type": kind,
            "method": "GET",
            "path": path,
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("192.0.2.1", 5),
        }
        self.sent = []
        await self._app(scope, self._receive, self._send)
        for value in self.header(b"set-cookie"):
            self.cookie = value.decode().split(";")[0]
        return self

    async def _receive(self) -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def header(self, name: bytes) -> list[bytes]:
        if not self.sent or self.sent[0]["type"] != "http.response.start":
            return []
        return [value for key, value in self.sent[0]["headers"] if key.lower() == name]


def replying(change: Callable[[Any], None] = lambda session: None) -> App:
    """An app that does something with its session and says hello."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        change(scope.get("session"))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
        await send({"type": "http.response.body", "body": b"hello"})

    return app


# --- rate limits ------------------------------------------------------------------------------------------


async def test_an_admitted_answer_gets_the_headers_of_the_limits() -> None:
    """RateLimit and RateLimit-Policy beside the app's own; no Retry-After."""
    client = Client(
        RateLimitMiddleware(replying(), runtime=StubRuntime(Decision(Outcome.ADMITTED, (ROOM,)))())
    )
    await client.get()
    assert (client.status, client.body) == (200, b"hello")
    assert client.header(b"x-app") == [b"1"]
    assert client.header(b"ratelimit") == [b'"per-user";r=3;t=12']
    assert client.header(b"ratelimit-policy") == [b'"per-user";q=5;w=60']
    assert client.header(b"retry-after") == []


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.LIMITED, 429), (Outcome.UNAVAILABLE, 503)])
async def test_a_refused_request_never_reaches_the_app(outcome: Outcome, status: int) -> None:
    """A problem document with Retry-After."""
    reached: list[object] = []
    client = Client(
        RateLimitMiddleware(replying(reached.append), runtime=StubRuntime(Decision(outcome, (FULL,)))())
    )
    await client.get()
    assert client.status == status
    assert client.header(b"content-type") == [b"application/problem+json"]
    assert int(client.header(b"retry-after")[0]) >= 1
    assert reached == []


async def test_probes_and_other_protocols_are_not_limited() -> None:
    """Neither the kubelet nor the lifespan is asked for a tenant."""
    stub = StubRuntime(Decision(Outcome.LIMITED, (FULL,)))
    client = Client(RateLimitMiddleware(replying(), runtime=stub(), exempt=("/healthz",)))
    await client.get("/healthz")
    await client.get(kind="lifespan")
    await client.get(kind="websocket")
    assert (client.body, stub.asked) == (b"hello", 0)


async def test_chunks_of_a_stream_pass_one_by_one() -> None:
    """Each leaves before the app makes the next one: nothing is buffered."""
    client: Client

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            assert len(client.sent) == number + 2
        await send({"type": "http.response.body", "body": b""})

    stub = StubRuntime(Decision(Outcome.ADMITTED, (ROOM,)), rules=SessionRules())
    client = Client(RateLimitMiddleware(SessionMiddleware(app, runtime=stub()), runtime=stub()))
    await client.get()
    assert len(client.sent) == 5


def test_installed_middleware_is_what_counts_as_enforced() -> None:
    """A section is reported as enforced only where its middleware really is there."""
    stub = StubRuntime()
    SessionMiddleware(RateLimitMiddleware(replying(), runtime=stub()), runtime=stub())
    assert sorted(stub.enforced) == ["rateLimits", "sessions"]


# --- sessions ---------------------------------------------------------------------------------------------


def with_sessions(
    change: Callable[[Any], None], sessions: Sessions | None = None, **rules: Any
) -> tuple[Client, StubRuntime]:
    stub = StubRuntime(sessions=sessions, rules=SessionRules(**rules))
    return Client(SessionMiddleware(replying(change), runtime=stub())), stub


def in_turn(steps: list[Callable[[Session], None]]) -> Callable[[Session], None]:
    """Each request does the next step."""

    def step(session: Session) -> None:
        steps.pop(0)(session)

    return step


async def test_a_session_that_nobody_uses_costs_no_cookie() -> None:
    """Looking at it is not using it."""
    client, _ = with_sessions(lambda session: session.get("a"))
    await client.get()
    assert client.header(b"set-cookie") == []


async def test_a_changed_session_is_saved_before_the_answer_and_comes_back() -> None:
    """With the policy's cookie, and an answer that no cache on the way keeps."""
    seen: list[int] = []

    def count(session: Session) -> None:
        session["n"] = session.get("n", 0) + 1
        seen.append(session["n"])

    client, _ = with_sessions(count)
    await client.get()
    (cookie,) = client.header(b"set-cookie")
    assert cookie.startswith(b"__Host-session=")
    assert cookie.endswith(b"; Max-Age=43200; Path=/; HttpOnly; SameSite=Lax; Secure")
    assert client.header(b"cache-control") == [b"no-store"]
    await client.get()
    await client.get()
    assert seen == [1, 2, 3]
    assert client.header(b"set-cookie") == []


async def test_rotation_gives_a_new_cookie_and_ends_the_old_one() -> None:
    """After a log-in the id from before is worth nothing."""
    steps: list[Callable[[Session], None]] = [
        lambda session: session.update(n=1),
        lambda session: session.rotate(),
        lambda session: seen.append(session.get("n")),
    ]
    seen: list[object] = []
    client, _ = with_sessions(in_turn(steps))
    await client.get()
    old = client.cookie
    await client.get()
    assert client.cookie != old
    client.cookie = old
    await client.get()
    assert seen == [None]


async def test_a_destroyed_session_takes_its_cookie_away() -> None:
    """Max-Age=0, and the id opens nothing any more."""
    steps: list[Callable[[Session], None]] = [
        lambda session: session.update(n=1),
        lambda session: session.destroy(),
        lambda session: seen.append(session.get("n")),
    ]
    seen: list[object] = []
    client, _ = with_sessions(in_turn(steps))
    await client.get()
    old = client.cookie
    await client.get()
    assert b"Max-Age=0" in client.header(b"set-cookie")[0]
    client.cookie = old
    await client.get()
    assert seen == [None]


@pytest.mark.parametrize("cookie", ["__Host-session=guessed", "__Host-session=", "other=1", "x", ";;=;"])
async def test_a_cookie_that_was_not_issued_here_is_ignored(cookie: str) -> None:
    """It opens a new session, whose id the client cannot choose."""
    client, _ = with_sessions(lambda session: session.update(n=1))
    client.cookie = cookie
    await client.get()
    assert b"guessed" not in client.header(b"set-cookie")[0]


async def test_without_the_section_there_is_no_session() -> None:
    """The app can tell."""
    seen: list[object] = []
    client = Client(SessionMiddleware(replying(seen.append), runtime=StubRuntime()()))
    await client.get()
    assert seen == [None]


class Away:
    """A session store that never answers."""

    async def load(self, key: str, *, idle_ms: int, absolute_ms: int) -> SessionRead:
        raise StoreUnavailable("state", "connection refused")

    async def save(self, key: str, write: object) -> SessionSaved:
        raise StoreUnavailable("state", "connection refused")

    async def destroy(self, keys: object, *, owner: str | None = None) -> int:
        raise StoreUnavailable("state", "connection refused")

    async def owned(self, index: str, *, idle_ms: int, absolute_ms: int) -> list[SessionEntry]:
        raise StoreUnavailable("state", "connection refused")

    async def destroy_owned(self, index: str, *, keep: str | None = None) -> int:
        raise StoreUnavailable("state", "connection refused")


@pytest.mark.parametrize("failure", [SessionStoreFailure.DENY, SessionStoreFailure.READ_ONLY])
async def test_a_change_that_the_policy_does_not_allow_in_an_outage_is_503(
    failure: SessionStoreFailure,
) -> None:
    """The app's own answer is not sent: it would claim that the change was kept."""
    client, _ = with_sessions(lambda session: session.update(n=1), Sessions(Away()), on_store_failure=failure)
    await client.get()
    assert client.status == 503
    assert client.header(b"retry-after") == [b"1"]
    assert b"hello" not in client.body
    assert len(client.sent) == 2


async def test_an_outage_with_deny_never_reaches_the_app() -> None:
    """A cookie that cannot be looked up."""
    reached: list[object] = []
    client, _ = with_sessions(reached.append, Sessions(Away()), on_store_failure=SessionStoreFailure.DENY)
    client.cookie = f"__Host-session={'a' * 43}"
    await client.get()
    assert (client.status, reached) == (503, [])


async def test_an_outage_with_local_keeps_sessions_here() -> None:
    """The replica remembers."""
    seen: list[int] = []

    def count(session: Session) -> None:
        session["n"] = session.get("n", 0) + 1
        seen.append(session["n"])

    client, _ = with_sessions(count, Sessions(Away()), on_store_failure=SessionStoreFailure.LOCAL)
    await client.get()
    await client.get()
    assert seen == [1, 2]


@pytest.mark.parametrize("value", [{1, 2}, "x" * 70_000], ids=["not JSON", "too large"])
async def test_a_session_that_cannot_be_saved_is_an_error_and_not_a_loss(value: object) -> None:
    """The developer is told what to change; the value is not repeated."""
    client, _ = with_sessions(lambda session: session.update(basket=value))
    await client.get()
    assert client.status == 500
    assert b"hello" not in client.body
    assert b"xxxx" not in client.body


@pytest.mark.parametrize(
    ("cookie", "attributes"),
    [
        (Cookie(), "Path=/; HttpOnly; SameSite=Lax; Secure"),
        (Cookie(name="s", secure=False), "Path=/; HttpOnly; SameSite=Lax"),
        (Cookie(name="s", same_site=SameSite.NONE), "Path=/; HttpOnly; SameSite=None; Secure"),
    ],
)
def test_the_cookie_is_always_http_only_and_follows_the_policy(cookie: Cookie, attributes: str) -> None:
    """RFC 6265bis; __Host- needs Path=/ and no Domain."""
    assert set_cookie(cookie, "v", 60) == f"{cookie.name}=v; Max-Age=60; {attributes}"


# --- what is read from a scope ----------------------------------------------------------------------------


def test_the_callers_address_is_the_connections_and_never_a_header() -> None:
    """Whoever sends X-Forwarded-For would choose its own limit."""
    scope: Scope = {"client": ("192.0.2.1", 5), "headers": [(b"x-forwarded-for", b"198.51.100.7")]}
    assert client_ip(scope) == "192.0.2.1"
    assert client_ip({"client": None, "headers": []}) is None


def test_a_path_below_a_mount() -> None:
    """With and without the place it is mounted at."""
    assert route_path({"path": "/cache/health", "root_path": "/cache"}) == "/health"
    assert route_path({"path": "/health", "root_path": "/cache"}) == "/health"
    assert route_path({"path": "/health"}) == "/health"


def test_a_bearer_token_is_read_in_any_case_of_the_scheme() -> None:
    """RFC 9110: schemes are case-insensitive."""
    assert bearer({"headers": [(b"Authorization", b"bearer abc")]}) == b"abc"
    assert bearer({"headers": [(b"authorization", b"Basic abc")]}) is None
