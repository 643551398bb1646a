"""What a request asks Redis for leaves together, where the order of the middleware allows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.replicas import SESSIONS, Site, limit
from tests.servers import Server

from cachepolicy.identity import Identity
from cachepolicy_runtime import CacheRuntime, RateLimitMiddleware, SessionMiddleware
from cachepolicy_runtime.asgi.types import App, Receive, Scope, Send

LIMIT = 50
_TRANSPORT = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]  # what sockets are written by


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every write to a socket."""
    seen: list[bytes] = []
    original = _TRANSPORT.write

    def write(self: object, data: bytes) -> None:
        seen.append(bytes(data))
        original(self, data)

    monkeypatch.setattr(_TRANSPORT, "write", write)
    return seen


async def counting(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that reads its session; on POST it changes it."""
    session = scope["session"]
    if scope["method"] == "POST":
        session["n"] = session.get("n", 0) + 1
    body = str(session.get("n")).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def session_outside(app: App, runtime: CacheRuntime) -> App:
    return SessionMiddleware(RateLimitMiddleware(app, runtime=runtime), runtime=runtime)


def limits_outside(app: App, runtime: CacheRuntime) -> App:
    return RateLimitMiddleware(SessionMiddleware(app, runtime=runtime), runtime=runtime)


@pytest.fixture
async def runtime(real_server: Server, tmp_path: Path) -> AsyncIterator[CacheRuntime]:
    site = Site(tmp_path / "site", real_server.url)
    site.apply(SESSIONS, limit(LIMIT))
    environ: dict[str, Any] = {**site.environ, "POD_NAME": "core-0"}
    made = CacheRuntime.from_env(identify=lambda scope: Identity("acme", "ann"), environ=environ)
    async with made.lifespan():
        yield made


def client(app: App) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://core")


async def asked(http: httpx.AsyncClient, writes: list[bytes]) -> tuple[httpx.Response, list[bytes]]:
    """One request, and what was written for it. It is asked again where a heartbeat came in between."""
    while True:
        writes.clear()
        answer = await http.get("/")
        for_it = [data for data in writes if b":s:" in data or b"per-user" in data]
        if len(for_it) == len(writes):
            return answer, for_it


async def test_session_and_limits_of_one_request_leave_in_one_write(
    runtime: CacheRuntime, writes: list[bytes]
) -> None:
    """With the limits around the session."""
    async with client(limits_outside(counting, runtime)) as http:
        await http.post("/")
        answer, (told,) = await asked(http, writes)
    assert answer.text == "1"
    assert b"HMGET" in told
    assert b"EVALSHA" in told


async def test_a_session_around_the_limits_is_read_before_them(
    runtime: CacheRuntime, writes: list[bytes]
) -> None:
    """Whoever calls may be known by the session then, so that the limits have to wait for it."""
    async with client(session_outside(counting, runtime)) as http:
        await http.post("/")
        answer, (first, second) = await asked(http, writes)
    assert answer.text == "1"
    assert b"HMGET" in first
    assert b"EVALSHA" in second


async def test_a_refused_request_reaches_no_app_and_its_session_stays(
    runtime: CacheRuntime, writes: list[bytes]
) -> None:
    """The session was asked for all the same; nobody is left waiting for it."""
    async with client(limits_outside(counting, runtime)) as http:
        await http.post("/")
        answers = [await http.post("/") for _ in range(LIMIT)]
        assert [answer.status_code for answer in answers] == [200] * (LIMIT - 1) + [429]
    async with client(SessionMiddleware(counting, runtime=runtime)) as direct:
        direct.cookies = http.cookies
        assert (await direct.get("/")).text == str(LIMIT)
