"""The middleware: what reaches the app, what is added to its answer, and that nothing is held back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.caches import LAYOUT

from cachepolicy.sessions import Cookie, CookieLifetime, SameSite, SessionStoreFailure
from cachepolicy.sessions import Sessions as SessionRules
from cachepolicy_runtime.asgi.ratelimit import RateLimitMiddleware
from cachepolicy_runtime.asgi.session_carriers import set_cookie
from cachepolicy_runtime.asgi.sessions import SessionMiddleware, start_session
from cachepolicy_runtime.asgi.types import App, Message, Receive, Scope, Send, bearer, client_ip, route_path
from cachepolicy_runtime.ratelimit import Decision, Outcome, RateReport
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.session import (
    Session,
    SessionConflict,
    SessionError,
    SessionsUnavailable,
    SessionTooLarge,
    new_id,
)
from cachepolicy_runtime.sessions import SessionPolicy, Sessions
from cachepolicy_runtime.store.memory import MemorySessionStore
from cachepolicy_runtime.store.port import SessionEntry, SessionRead, SessionSaved, StoreUnavailable

COOKIE = "__Host-session"

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
        self.app = app
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
        await self.app(scope, self._receive, self._send)
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
        (
            Cookie(name="s", domain="example.com", path="/a", partitioned=True),
            "Domain=example.com; Path=/a; HttpOnly; SameSite=Lax; Secure; Partitioned",
        ),
    ],
)
def test_the_cookie_is_always_http_only_and_follows_the_policy(cookie: Cookie, attributes: str) -> None:
    """RFC 6265bis; __Host- needs Path=/ and no Domain."""
    assert set_cookie(cookie, "v", 60) == f"{cookie.name}=v; Max-Age=60; {attributes}"
    assert set_cookie(cookie, None, 60) == f"{cookie.name}=; Max-Age=0; {attributes}"
    until_closed = cookie.model_copy(update={"lifetime": CookieLifetime.BROWSER})
    assert set_cookie(until_closed, "v", 60) == f"{cookie.name}=v; {attributes}"
    assert "Max-Age=0" in set_cookie(until_closed, None, 60)


async def test_of_two_cookies_of_one_name_the_one_that_opens_a_session_counts() -> None:
    """A browser sends both after the policy's domain or path has changed; the dead one may come first."""
    seen: list[int] = []
    client, _ = with_sessions(counting(seen))
    await client.get()
    alive = client.cookie
    client.cookie = f"{COOKIE}={new_id()}; {alive}"
    await client.get()
    assert seen == [1, 2]
    assert client.header(b"set-cookie") == []
    client.cookie = "; ".join([f"{COOKIE}={new_id()}"] * 10 + [str(alive)])
    await client.get()
    assert seen == [1, 2, 1]  # nobody makes Redis look up as many ids as a header holds


# --- a header in place of the cookie ----------------------------------------------------------------------


def counting(seen: list[int]) -> Callable[[Session], None]:
    def count(session: Session) -> None:
        session["n"] = session.get("n", 0) + 1
        seen.append(session["n"])

    return count


async def test_a_header_carries_the_id_and_no_cookie_is_set_or_looked_at() -> None:
    """The answer tells a new id once; it is nothing for a cache on the way."""
    seen: list[int] = []
    client, _ = with_sessions(counting(seen), carrier="Header")
    await client.get()
    (token,) = client.header(b"x-auth-token")
    assert client.header(b"set-cookie") == []
    assert client.header(b"cache-control") == [b"no-store"]
    assert client.header(b"vary") == [b"X-Auth-Token"]
    await client.get(**{"x-auth-token": token.decode()})
    assert client.header(b"x-auth-token") == []
    await client.get(cookie=f"{COOKIE}={token.decode()}")
    await client.get(authorization=f"Bearer {token.decode()}")
    assert seen == [1, 2, 1, 1]


async def test_of_either_the_header_wins_where_a_request_has_it() -> None:
    """An empty header asks for a token; a request without it gets a cookie."""
    rules: dict[str, Any] = {"carrier": "Either", "header": {"name": "X-Session"}}
    seen: list[int] = []
    client, _ = with_sessions(counting(seen), **rules)
    await client.get(**{"x-session": ""})
    (token,) = client.header(b"x-session")
    assert client.header(b"set-cookie") == []
    await client.get()
    assert client.header(b"x-session") == []
    assert client.cookie
    await client.get(**{"x-session": token.decode()})
    await client.get(**{"x-session": "guessed"})
    assert client.header(b"set-cookie") == []
    await client.get()
    assert client.header(b"vary") == [b"Cookie, X-Session"]
    assert seen == [1, 1, 2, 1, 2]


async def test_a_new_id_and_an_end_are_told_by_the_header_too() -> None:
    """The old token is worth nothing after a log-in; an empty header takes the token away."""
    steps: list[Callable[[Session], None]] = [
        lambda session: session.update(n=1),
        lambda session: session.rotate(),
        lambda session: seen.append(session.get("n")),
        lambda session: session.destroy(),
    ]
    seen: list[object] = []
    client, _ = with_sessions(in_turn(steps), carrier="Header")
    await client.get()
    (old,) = client.header(b"x-auth-token")
    await client.get(**{"x-auth-token": old.decode()})
    (new,) = client.header(b"x-auth-token")
    assert new != old
    await client.get(**{"x-auth-token": old.decode()})
    await client.get(**{"x-auth-token": new.decode()})
    assert client.header(b"x-auth-token") == [b""]
    assert client.header(b"set-cookie") == []
    assert seen == [None]


# --- asked for early --------------------------------------------------------------------------------------


async def test_a_session_asked_for_early_is_the_one_that_the_app_gets() -> None:
    """By middleware around: one load, by the policy that held then."""
    seen: list[int] = []
    client, stub = with_sessions(counting(seen))
    inner = client.app
    openings = []

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        opening = start_session(stub(), scope)
        openings.append(opening)
        if opening is not None:
            stub.session_policy = None
        await inner(scope, receive, send)

    client.app = around
    await client.get()
    await client.get()
    assert [opening is not None for opening in openings] == [False, True]
    assert seen == [1, 2]


async def test_a_session_asked_for_early_in_an_outage_is_503_and_one_that_nobody_takes_is_no_error() -> None:
    """A refusal by a limit never reaches the session's middleware."""
    _, stub = with_sessions(counting([]), Sessions(Away()), on_store_failure=SessionStoreFailure.DENY)
    scope: Scope = {"type": "http", "headers": [(b"cookie", f"{COOKIE}={new_id()}".encode())]}
    unused = start_session(stub(), dict(scope))
    assert unused is not None
    await asyncio.sleep(0)
    unused.cancel()
    taken = start_session(stub(), scope)
    assert taken is not None
    with pytest.raises(SessionsUnavailable):
        await taken.session()
    taken.cancel()


async def test_without_a_session_middleware_nothing_is_asked_early() -> None:
    stub = StubRuntime(rules=SessionRules())
    scope: Scope = {"type": "http", "headers": [(b"cookie", f"{COOKIE}={new_id()}".encode())]}
    assert start_session(stub(), scope) is None


# --- what an app leaves to the middleware -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SessionsUnavailable("the store is away"), 503),
        (SessionConflict("another request was faster"), 409),
        (SessionTooLarge(5, 4), 500),
    ],
)
async def test_an_error_of_a_session_that_the_app_does_not_catch_is_an_answer(
    error: SessionError, status: int
) -> None:
    """As long as the app has not answered itself."""

    def fail(session: Session) -> None:
        raise error

    client, _ = with_sessions(fail)
    await client.get()
    assert client.status == status
    assert str(error).encode() in client.body


async def test_an_answer_that_nobody_looked_into_a_session_for_varies_on_nothing() -> None:
    """Caches on the way may keep it; others vary on the cookie."""
    client, _ = with_sessions(lambda session: None)
    await client.get()
    assert client.header(b"vary") == []
    client, _ = with_sessions(lambda session: session.get("a"))
    await client.get()
    assert client.header(b"vary") == [b"Cookie"]


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
