"""A request holds its place from its admission to the last byte of its answer, however it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from cachepolicy_runtime.asgi.ratelimit import RateLimitMiddleware
from cachepolicy_runtime.asgi.types import App, Message, Receive, Scope, Send
from cachepolicy_runtime.ratelimit import Decision, Outcome, RateReport
from cachepolicy_runtime.ratelimit.held import LeaseKeeper
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.store.port import Lease

SCOPE: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("192.0.2.1", 5)}


class Holding:
    """A runtime that lets everything in and gives out leases; only what the middleware asks it for."""

    def __init__(self, outcome: Outcome = Outcome.ADMITTED, rates: tuple[RateReport, ...] = ()) -> None:
        self.leases = LeaseKeeper()
        self._outcome = outcome
        self._rates = rates

    @property
    def held(self) -> int:
        return len(self.leases)

    session_policy = None

    def installed(self, section: str) -> None:
        """Somebody else's business."""

    async def admit(self, scope: Scope) -> Decision:
        lease = self.leases.hold(MemoryLimitStore(), self.leases.new_id(), ["key"])
        return Decision(
            self._outcome, self._rates, lease=lease if self._outcome is Outcome.ADMITTED else None
        )


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def call(app: App, runtime: Holding, send: Send) -> None:
    await RateLimitMiddleware(app, runtime=cast(CacheRuntime, runtime))(dict(SCOPE), receive, send)


def answering(*chunks: bytes, then: Sequence[str] = ()) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for chunk in chunks[:-1]:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": chunks[-1]})
        for _ in then:
            await asyncio.sleep(0)

    return app


async def test_the_place_is_held_through_a_stream_and_free_with_its_last_byte() -> None:
    """Not only when the application returns: what it does in the background takes nobody's place."""
    runtime = Holding()
    seen: list[int] = []

    async def send(message: Message) -> None:
        seen.append(runtime.held)

    after: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(b"a", b"b", b"")(scope, receive, send)
        after.append(runtime.held)

    await call(app, runtime, send)
    assert (seen, after, runtime.held) == ([1, 1, 1, 1], [0], 0)


async def test_headers_of_limits_are_added_to_an_answer_that_holds_a_place() -> None:
    runtime = Holding(rates=(RateReport("a", 5, 60_000, 4, 60_000, 0),))
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await call(answering(b"x"), runtime, send)
    assert [name for name, _ in sent[0]["headers"]] == [b"ratelimit-policy", b"ratelimit"]


async def test_an_application_that_fails_leaves_its_place() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    runtime = Holding()
    with pytest.raises(RuntimeError, match="broken"):
        await call(app, runtime, receive_nothing)
    assert runtime.held == 0


async def test_a_caller_that_leaves_in_the_middle_of_a_stream_frees_its_place() -> None:
    """Servers tell by an error of send, or cancel the request's task."""
    runtime = Holding()

    async def broken(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the connection is gone")

    with pytest.raises(OSError, match="gone"):
        await call(answering(b"a", b"b"), runtime, broken)
    assert runtime.held == 0

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(call(endless, runtime, receive_nothing))
    await asyncio.sleep(0)
    assert runtime.held == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runtime.held == 0


async def receive_nothing(message: Message) -> None:
    """A send that drops everything."""


async def test_a_refusal_may_have_another_body() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    def refusal(scope: Scope, decision: Decision) -> tuple[bytes, bytes]:
        return str(scope["path"]).encode(), b"text/plain"

    runtime = Holding(Outcome.LIMITED, (RateReport("a", 5, 60_000, 0, 60_000, 1_000),))
    middleware = RateLimitMiddleware(answering(b"x"), runtime=cast(CacheRuntime, runtime), refusal=refusal)
    await middleware(dict(SCOPE), receive, send)
    told = dict(sent[0]["headers"])
    assert (sent[0]["status"], told[b"content-type"], sent[1]["body"]) == (429, b"text/plain", b"/")
    assert told[b"retry-after"] == b"1"
    assert len(sent[0]["headers"]) == len(told) == 5


class Renewing(MemoryLimitStore):
    """Remembers which leases it was asked to renew."""

    def __init__(self) -> None:
        super().__init__()
        self.renewed: list[Lease] = []

    async def renew(self, leases: Sequence[Lease], timeout_ms: int) -> None:
        self.renewed += leases


async def test_a_place_that_was_left_is_not_taken_again_by_a_renewal() -> None:
    """Renewals leave in a later turn of the event loop, and a request may end in between."""
    keeper, store = LeaseKeeper(), Renewing()
    stays, ends = (keeper.hold(store, keeper.new_id(), ["key"]) for _ in range(2))
    keeper._renew_all()
    ends.release()
    await asyncio.sleep(0)
    assert store.renewed == stays.leases
    stays.release()
