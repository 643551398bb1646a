"""What networks do to a connection, by really doing it, and what the caller sees of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from tests.fleets import Node, node
from tests.fronts import Front, front
from tests.outages import SLACK_S, failure, until_back
from tests.servers import Server
from tests.stores import stores_over, transport_to

from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.link import Call, Link
from cachepolicy_runtime.store.port import LimitCheck, WindowRate
from cachepolicy_runtime.store.redis import RedisTransport
from cachepolicy_runtime.store.transport import TransportSettings

CHECK = LimitCheck((WindowRate("masterclaw/core:l:x", 5, 60_000),))


@pytest.fixture
async def before(valkey: Server) -> AsyncIterator[Front]:
    valkey.flush()
    async with front(valkey.url) as made:
        yield made


@pytest.fixture
async def transport(before: Front) -> AsyncIterator[RedisTransport]:
    made = transport_to(before.url)
    yield made
    await made.aclose()


@pytest.fixture
def server() -> Iterator[Node]:
    with node("--enable-debug-command", "yes") as made:
        yield made


# --- connections


async def test_a_connection_cut_in_mid_reply_fails_what_was_sent_and_nobody_gets_anothers_answer(
    before: Front, transport: RedisTransport
) -> None:
    names = [f"k{i}" for i in range(200)]
    for name in names:
        await transport.call("SET", name, name * 50)
    before.cut_after = 1000
    answers = await asyncio.gather(*(transport.call("GET", name) for name in names), return_exceptions=True)
    failed = [one for one in answers if isinstance(one, StoreUnavailable)]
    assert {one.reason for one in failed} == {"the server closed the connection"}
    assert 0 < len(failed) <= 64
    for name, answer in zip(names, answers, strict=True):
        assert isinstance(answer, StoreUnavailable) or answer == (name * 50).encode()
    assert transport.available
    assert await transport.call("GET", "k7") == b"k7" * 50


async def test_a_server_that_closes_every_connection_before_it_answers_is_away(
    before: Front, transport: RedisTransport
) -> None:
    await transport.call("PING")
    before.cut()
    await asyncio.sleep(0.05)
    greeting = b"*2\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n"
    before.answers = [greeting, b"$5\r\nhal"]
    call = asyncio.ensure_future(transport.call("PING"))
    while before.answers:  # noqa: ASYNC110 - until it has swallowed both
        await asyncio.sleep(0.01)
    before.cut()
    assert await failure(call) == "the server closed the connection"
    assert not transport.available
    await until_back(transport)


async def test_what_answers_something_else_than_redis_is_told_so(
    before: Front, transport: RedisTransport
) -> None:
    before.answers = [b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    assert "closed the connection" in await failure(transport.call("PING"))


async def test_more_answers_than_questions_end_the_connection_and_not_the_order(
    before: Front, transport: RedisTransport
) -> None:
    await transport.call("PING")
    before.answers = [b"+PONG\r\n+SURPLUS\r\n"]
    assert await transport.call("PING") == b"PONG"
    assert await transport.call("ECHO", "mine") == b"mine"
    assert before.opened == 2


async def test_a_slow_server_is_answered_for_where_the_budget_allows_it(before: Front) -> None:
    before.delay_s = 0.2
    patient, hasty = transport_to(before.url), transport_to(before.url, TransportSettings(deadline_s=0.1))
    try:
        assert await patient.call("ECHO", "late") == b"late"
        start = time.monotonic()
        assert await failure(hasty.call("PING")) == "no answer within 100 ms"
        assert time.monotonic() - start < 0.1 + SLACK_S
    finally:
        await patient.aclose()
        await hasty.aclose()


async def test_an_answer_that_comes_too_late_is_nobodys(before: Front) -> None:
    transport = transport_to(before.url, TransportSettings(deadline_s=0.15))
    try:
        await transport.call("PING")
        before.delay_s = 0.4
        assert await failure(transport.call("ECHO", "late")) == "no answer within 150 ms"
        before.delay_s = 0
        await until_back(transport)
        for word in ("a", "b", "c"):
            assert await transport.call("ECHO", word) == word.encode()
    finally:
        await transport.aclose()


async def test_a_second_outage_is_noticed_as_soon_as_the_first(before: Front) -> None:
    transport = transport_to(before.url, TransportSettings(deadline_s=0.1, connect_deadline_s=30.0))
    try:
        await transport.call("PING")
        for _ in range(2):
            before.delay_s = 0.4
            start = time.monotonic()
            assert await failure(transport.call("PING")) == "no answer within 100 ms"
            assert time.monotonic() - start < 0.1 + SLACK_S
            before.delay_s = 0
            await until_back(transport)
    finally:
        await transport.aclose()


async def test_a_login_that_is_refused_after_it_worked_is_tried_again_on_a_new_connection(
    before: Front, transport: RedisTransport
) -> None:
    """As a proxy does, or a server that was reset: nothing was done, so the call is sent again, once."""
    await transport.call("PING")
    before.answers = [b"-NOAUTH Authentication required.\r\n"]
    assert await transport.call("ECHO", "again") == b"again"
    assert before.opened == 2
    assert transport.available


# --- large and many


async def test_ten_mebibytes_come_and_go_whole_and_small_calls_pass_them(valkey: Server) -> None:
    transport = transport_to(valkey.url)
    value = bytes(range(256)) * (40 << 10)
    try:
        put = transport.call_nowait("SET", "big", value, "PX", 60_000)
        assert await asyncio.gather(*(transport.call("ECHO", str(i)) for i in range(100))) == [
            str(i).encode() for i in range(100)
        ]
        assert await put == b"OK"
        large, *small = await asyncio.gather(
            transport.call("GET", "big", bulk=True), *(transport.call("ECHO", str(i)) for i in range(100))
        )
        assert large == value
        assert small == [str(i).encode() for i in range(100)]
        assert await transport.call("GET", "big") == value
        with valkey.sync_client() as client:
            names = [client_["name"] for client_ in client.client_list()]
        assert names.count("cachepolicy-state") == 2
    finally:
        await transport.aclose()


async def test_large_values_may_fill_the_socket_and_wait_for_it(before: Front) -> None:
    transport = transport_to(before.url)
    values = [bytes([i]) * (1 << 20) for i in range(24)]
    try:
        await asyncio.gather(*(transport.call("SET", f"v{i}", value) for i, value in enumerate(values)))
        assert await asyncio.gather(*(transport.call("GET", f"v{i}") for i in range(24))) == values
    finally:
        await transport.aclose()


async def test_calls_above_the_bound_are_refused_and_the_others_are_not(
    valkey: Server, caplog: pytest.LogCaptureFixture
) -> None:
    transport = transport_to(valkey.url, TransportSettings(deadline_s=5.0, max_waiting=100))
    answers = await asyncio.gather(
        *(transport.call("ECHO", str(i)) for i in range(150)), return_exceptions=True
    )
    await transport.aclose()
    assert answers[:100] == [str(i).encode() for i in range(100)]
    assert {str(one) for one in answers[100:]} == {"state store unavailable: too many calls are waiting"}
    assert [record.message for record in caplog.records] == [
        "state store: too many calls are waiting, more are refused"
    ]


async def test_bytes_that_wait_are_bounded_too(valkey: Server) -> None:
    transport = transport_to(valkey.url, TransportSettings(deadline_s=5.0, max_queued_bytes=1 << 20))
    value = b"x" * (512 << 10)
    answers = await asyncio.gather(
        *(transport.call("SET", "a", value) for _ in range(10)), return_exceptions=True
    )
    await transport.aclose()
    assert answers[:2] == [b"OK"] * 2
    assert all(isinstance(one, StoreUnavailable) for one in answers[2:])


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many calls each write to a socket had."""
    sizes: list[int] = []
    write = Link.write

    def counted(link: Link, calls: Sequence[Call]) -> None:
        sizes.append(len(calls))
        write(link, calls)

    monkeypatch.setattr(Link, "write", counted)
    return sizes


async def test_what_is_called_in_one_turn_leaves_in_one_write(valkey: Server, writes: list[int]) -> None:
    transport = transport_to(valkey.url)
    stores = stores_over(transport, "redis")

    async def decide() -> None:
        await stores.limits.admit([CHECK])

    async def one_turn() -> None:
        await asyncio.gather(
            decide(),
            stores.cache.get("masterclaw/core:c:a"),
            stores.control.document(),
            transport.pipeline([("ECHO", "a"), ("ECHO", "b")]),
        )

    await one_turn()
    writes.clear()
    await one_turn()
    assert writes == [4]
    await transport.aclose()


# --- batches of others


async def test_what_is_gathered_leaves_with_what_was_called_before_it(
    valkey: Server, writes: list[int]
) -> None:
    transport = transport_to(valkey.url)
    await transport.call("PING")
    writes.clear()
    said: list[asyncio.Future[object]] = []
    first = transport.call_nowait("ECHO", "first")
    transport.gather(lambda: said.append(transport.call_nowait("ECHO", "second")))
    assert await first == b"first"
    assert await said[0] == b"second"
    assert writes == [2]
    await transport.aclose()


class Told:
    """An answer that is no future."""

    def __init__(self) -> None:
        self.results: list[object] = []
        self.errors: list[Exception] = []

    def done(self) -> bool:
        return bool(self.results or self.errors)

    def set_result(self, result: object, /) -> None:
        self.results.append(result)

    def set_exception(self, exception: Exception, /) -> None:
        self.errors.append(exception)


async def test_a_script_tells_whom_it_was_given(server: Node) -> None:
    transport = transport_to(f"redis://127.0.0.1:{server.port}")
    answered, failed = Told(), Told()
    transport.script_into(answered, "beat", ["a"], ["x", 1000])
    async with asyncio.timeout(5):
        while not answered.done():  # noqa: ASYNC110 - the first time, with the script's text
            await asyncio.sleep(0.01)
    assert answered.results == [1]
    server.ask("SET", "a", "a string")
    transport.script_into(failed, "beat", ["a"], ["x", 1000])
    async with asyncio.timeout(5):
        while not failed.done():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    assert "WRONGTYPE" in str(failed.errors)
    await transport.aclose()
