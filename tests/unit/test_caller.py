"""Whose work the running code does: it follows a request everywhere, and never leaves it."""

from __future__ import annotations

import asyncio

import pytest

from cachepolicy.identity import Identity
from cachepolicy_runtime.asgi.types import Message, Receive, Scope, Send
from cachepolicy_runtime.caller import acting_as, current, current_scope, serve
from cachepolicy_runtime.runtime import CacheRuntime

ACME, EVIL = Identity("acme", "ann"), Identity("evil")


@pytest.fixture
def runtime() -> CacheRuntime:
    return CacheRuntime.from_env(identify=lambda scope: scope["who"], environ={})


def request(who: Identity | None, kind: str = "http") -> Scope:
    return {"type": kind, "who": who, "headers": []}


async def nothing() -> Message:
    raise AssertionError("no body is read here")


async def drop(message: Message) -> None:
    raise AssertionError("no answer is sent here")


async def test_the_caller_is_who_the_request_is_from_and_nobody_after_it(runtime: CacheRuntime) -> None:
    seen: list[Identity | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(await runtime.caller())
        seen.append(await asyncio.create_task(runtime.caller()))
        seen.append(await asyncio.to_thread(asyncio.run, runtime.caller()))

    await serve(app, request(ACME), nothing, drop)
    assert seen == [ACME, ACME, ACME]
    assert current() is None


async def test_an_app_that_is_called_within_a_request_does_not_leave_its_caller_behind(
    runtime: CacheRuntime,
) -> None:
    seen: list[Identity | None] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(await runtime.caller())
        raise LookupError

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(LookupError):
            await serve(inner, request(EVIL), receive, send)
        seen.append(await runtime.caller())

    await serve(outer, request(ACME), nothing, drop)
    assert seen == [EVIL, ACME]


async def test_requests_at_the_same_time_do_not_see_each_other(runtime: CacheRuntime) -> None:
    barrier = asyncio.Barrier(2)
    seen: dict[Identity, Identity | None] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await barrier.wait()
        seen[scope["who"]] = await runtime.caller()

    await asyncio.gather(*(serve(app, request(who), nothing, drop) for who in (ACME, EVIL)))
    assert seen == {ACME: ACME, EVIL: EVIL}


async def test_an_identity_given_by_hand_hides_the_request(runtime: CacheRuntime) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert current_scope() is scope
        with acting_as(EVIL):
            assert await runtime.caller() == EVIL
            assert current_scope() is None
            with acting_as(None):
                assert await runtime.caller() is None
        assert await runtime.caller() == ACME

    await serve(app, request(ACME), nothing, drop)


async def test_the_start_of_an_app_is_nobodys_work() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert current() is None

    await serve(app, request(ACME, "lifespan"), nothing, drop)
