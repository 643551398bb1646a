"""The server is away, in every way it can be: each verb fails soon, in a few words, and works again after."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import pytest
from tests.servers import PLAIN_CONF, Server
from tests.stores import LAYOUT, PATIENT, Stores, stores_over, transport_to

from cachepolicy_operator import embedded
from cachepolicy_runtime.store.endpoint import Address, Credentials, FileCredentials, fixed, parse_url
from cachepolicy_runtime.store.port import (
    Adjustment,
    CacheItem,
    Lease,
    LimitCheck,
    SessionWrite,
    StoreUnavailable,
    WindowRate,
)
from cachepolicy_runtime.store.redis import RedisTransport, TransportSettings

SECRET = "not-the-password"
DEADLINE_S = 0.1
#: What a busy machine may add before a test calls it too late.
SLACK_S = 3.0
RECOVERY_S = 2.0

KEY = LAYOUT.session("a")
CHECK = LimitCheck((WindowRate("masterclaw/core:l:x", 5, 60_000),))


async def _first_wake(stores: Stores) -> None:
    async with aclosing(stores.control.wakes()) as wakes:
        await anext(wakes)


async def _admit(stores: Stores) -> None:
    """An open breaker raises before there is anything to wait for."""
    await stores.limits.admit([CHECK])


VERBS: dict[str, Callable[[Stores], Awaitable[object]]] = {
    "admit": _admit,
    "adjust": lambda s: s.limits.adjust([Adjustment(CHECK.rates[0], 1, -1)]),
    "renew": lambda s: s.limits.renew([Lease("masterclaw/core:p:x", "a")], 1000),
    "load": lambda s: s.sessions.load(KEY, idle_ms=1000, absolute_ms=1000),
    "save": lambda s: s.sessions.save(KEY, SessionWrite(b"secret content", 0, 1000, 1000)),
    "destroy": lambda s: s.sessions.destroy([KEY]),
    "destroy_owned": lambda s: s.sessions.destroy_owned("masterclaw/core:su:acme/ann"),
    "get": lambda s: s.cache.get("masterclaw/core:c:a"),
    "mget": lambda s: s.cache.mget(["masterclaw/core:c:a"]),
    "put": lambda s: s.cache.put("masterclaw/core:c:a", b"secret content", 1000),
    "mput": lambda s: s.cache.mput([CacheItem("masterclaw/core:c:a", b"secret content", 1000)]),
    "delete": lambda s: s.cache.delete("masterclaw/core:c:a"),
    "stamps": lambda s: s.control.stamps(),
    "set_stamps": lambda s: s.control.set_stamps(["all"]),
    "wake": lambda s: s.control.wake(),
    "acknowledge": lambda s: s.control.acknowledge("pod/1/x", b"{}"),
    "withdraw": lambda s: s.control.withdraw("pod/1/x"),
    "document": lambda s: s.control.document(),
}
#: A subscription has a connection, and a deadline, of its own.
ALL_VERBS = {**VERBS, "wakes": _first_wake}


class Instance:
    """A server of its own, which a test may stop, kill and start again at the same place."""

    def __init__(self, folder: Path) -> None:
        self.launch = embedded.Launch(folder, folder / "redis.conf")
        self.launch.conf.write_text(PLAIN_CONF)
        self.start()

    def start(self) -> None:
        self.running = embedded.start(self.launch)
        self.url = self.running.url

    def signal(self, number: int) -> None:
        os.kill(self.running.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        while self.running.running:
            time.sleep(0.01)
        self.running.stop()


@pytest.fixture
def instance() -> Iterator[Instance]:
    with tempfile.TemporaryDirectory(prefix="cp-") as folder:
        made = Instance(Path(folder))
        yield made
        if made.running.running:
            made.signal(signal.SIGCONT)
        made.running.stop()


@asynccontextmanager
async def connected(url: str, settings: TransportSettings | None = None) -> AsyncIterator[RedisTransport]:
    transport = transport_to(url, settings or TransportSettings(deadline_s=DEADLINE_S))
    try:
        yield transport
    finally:
        await transport.aclose()


async def failure(call: Awaitable[object]) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        await call
    return caught.value


async def until_back(transport: RedisTransport) -> float:
    """Seconds until the breaker closes; fails after the time that recovery may take."""
    start = time.monotonic()
    async with asyncio.timeout(RECOVERY_S + SLACK_S):
        while not transport.available:  # noqa: ASYNC110 - the transport has no event that product code needs
            await asyncio.sleep(0.01)
    return time.monotonic() - start


# --- every verb, every way


@asynccontextmanager
async def one_for_each_verb(
    url: str, settings: TransportSettings | None = None
) -> AsyncIterator[dict[str, Stores]]:
    """Stores over a transport of its own for each verb, so that none meets a breaker that another opened."""
    async with AsyncExitStack() as stack:
        yield {
            verb: stores_over(await stack.enter_async_context(connected(url, settings)), "redis")
            for verb in ALL_VERBS
        }


async def assert_each_fails_in_time(every: dict[str, Stores], reasons: set[str]) -> None:
    for verb, stores in every.items():
        start = time.monotonic()
        error = await failure(ALL_VERBS[verb](stores))
        took = time.monotonic() - start
        allowed = 1.0 if verb == "wakes" else DEADLINE_S
        assert took < allowed + SLACK_S, f"{verb} took {took:.2f} s"
        assert error.reason in reasons, verb
        assert (error.server, error.__cause__) == ("state", None)
        if verb != "wakes":
            start = time.monotonic()
            for _ in range(100):
                await failure(VERBS[verb](stores))
            assert time.monotonic() - start < 0.1 + SLACK_S, f"{verb}: an open breaker is not cheap"


SILENT = {"no answer within 100 ms", "no connection in time"}
GONE = {"the server closed the connection", "connection refused", "there is no such socket"}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://127.0.0.1:1", "connection refused"),
        ("unix:///nowhere/redis.sock", "there is no such socket"),
    ],
)
async def test_each_verb_fails_at_once_where_nobody_listens(url: str, reason: str) -> None:
    async with one_for_each_verb(url, PATIENT) as every:
        await assert_each_fails_in_time(every, {reason})


@pytest.mark.parametrize("connected_before", [False, True])
async def test_each_verb_fails_within_its_deadline_on_a_server_that_hangs(
    instance: Instance, connected_before: bool
) -> None:
    async with one_for_each_verb(instance.url) as every:
        if connected_before:
            for stores in every.values():
                await stores.control.document()
        instance.signal(signal.SIGSTOP)
        await assert_each_fails_in_time(every, SILENT)


async def test_each_verb_fails_at_once_on_a_server_that_was_killed(instance: Instance) -> None:
    async with one_for_each_verb(instance.url, PATIENT) as every:
        for stores in every.values():
            await stores.control.document()
        instance.kill()
        await assert_each_fails_in_time(every, GONE)


async def test_a_wrong_password_fails_each_verb_and_is_never_told(
    valkey: Server, caplog: pytest.LogCaptureFixture
) -> None:
    address, _ = parse_url(valkey.url)
    for verb, call in ALL_VERBS.items():
        transport = RedisTransport("state", address, fixed(Credentials("core", SECRET)), PATIENT)
        error = await failure(call(stores_over(transport, "redis")))
        await transport.aclose()
        assert error.reason == "the server refused the username or password", verb
        assert SECRET not in caplog.text + repr(error) + repr(transport.__dict__)


async def test_each_verb_works_again_on_a_server_that_came_back_empty(instance: Instance) -> None:
    async with one_for_each_verb(instance.url, TransportSettings(deadline_s=2.0)) as every:
        for verb, stores in every.items():
            await ALL_VERBS[verb](stores)
        instance.kill()
        for verb, stores in every.items():
            await failure(ALL_VERBS[verb](stores))
        instance.start()
        await asyncio.sleep(RECOVERY_S)
        for verb, stores in every.items():
            await ALL_VERBS[verb](stores)


# --- how it goes and comes back


async def test_a_hung_server_is_used_again_within_two_seconds_after_it_goes_on(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cachepolicy.store")
    async with connected(instance.url) as transport:
        await transport.call("SET", "a", b"1")
        instance.signal(signal.SIGSTOP)
        error = await failure(transport.call("GET", "a"))
        assert error.reason == "no answer within 100 ms"
        await asyncio.sleep(2.5)
        instance.signal(signal.SIGCONT)
        await until_back(transport)
        assert await transport.call("GET", "a") == b"1"
    messages = [record.message for record in caplog.records]
    assert len(messages) == 2
    assert messages[0] == "state store: unavailable (no answer within 100 ms)"
    assert messages[1].startswith("state store: available again after ")


async def test_an_outage_is_one_line_when_it_begins_and_one_when_it_ends(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cachepolicy.store")
    async with connected(instance.url) as transport:
        await transport.call("PING")
        instance.kill()
        for _ in range(20):
            await failure(transport.call("PING"))
            await asyncio.sleep(0.05)
        instance.start()
        await until_back(transport)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_the_event_loop_goes_on_while_a_thousand_calls_wait_for_a_hung_server(
    instance: Instance,
) -> None:
    async with connected(instance.url) as transport:
        await transport.call("PING")
        instance.signal(signal.SIGSTOP)
        calls = [asyncio.ensure_future(failure(transport.call("GET", "a"))) for _ in range(1000)]
        longest, start = 0.0, time.monotonic()
        while not all(call.done() for call in calls):
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)
        assert time.monotonic() - start < DEADLINE_S + SLACK_S
        assert longest < SLACK_S


async def test_a_loop_that_was_blocked_does_not_make_the_server_look_hung(instance: Instance) -> None:
    async with connected(instance.url) as transport:
        await transport.call("PING")
        call = asyncio.ensure_future(transport.call("PING"))
        await asyncio.sleep(0)
        time.sleep(2 * DEADLINE_S)  # noqa: ASYNC251 - blocking the loop is what is tested
        assert await call == b"PONG"
        assert transport.available


async def test_a_subscription_that_loses_its_server_ends(instance: Instance) -> None:
    async with connected(instance.url) as transport, aclosing(transport.listen("channel")) as messages:
        await anext(messages)
        instance.kill()
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(2):
                await anext(messages)


# --- what is no outage


async def test_a_thousand_calls_at_once_all_succeed_over_one_connection(server: Server) -> None:
    async with connected(server.url, PATIENT) as transport, server.client() as client:
        answers = await asyncio.gather(*(transport.call("SET", f"k{i}", str(i)) for i in range(1000)))
        assert answers == [b"OK"] * 1000
        assert await asyncio.gather(*(transport.call("GET", f"k{i}") for i in range(1000))) == [
            str(i).encode() for i in range(1000)
        ]
        if server.real:
            assert len(await client.client_list()) <= 2


#: Keeps the server busy: a million rounds are about 10 ms. (TIME stands still within a script.)
BUSY = "for i = 1, ARGV[1] do end return 'done'"


async def test_calls_in_a_queue_that_moves_are_waited_for_and_a_silent_server_is_not(
    instance: Instance,
) -> None:
    async with connected(instance.url, TransportSettings(deadline_s=0.3)) as transport:
        answers = await asyncio.gather(*(transport.call("EVAL", BUSY, 0, 100_000) for _ in range(800)))
        assert answers == [b"done"] * 800
        error = await failure(transport.call("EVAL", BUSY, 0, 1_000_000_000))
        assert error.reason == "no answer within 300 ms"
        instance.kill()


async def test_a_caller_that_goes_away_leaves_the_answers_of_others_in_order(server: Server) -> None:
    async with connected(server.url, PATIENT) as transport:
        await transport.call("PING")
        calls = [asyncio.ensure_future(transport.call("ECHO", str(i))) for i in range(100)]
        for _ in range(3):  # until the first of them are on their way
            await asyncio.sleep(0)
        for call in calls[::3]:
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [answer for answer in answers if isinstance(answer, bytes)] == [
            str(i).encode() for i in range(100) if i % 3
        ]


async def test_a_server_that_closes_an_idle_connection_is_connected_again_without_a_word(
    valkey: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(valkey.url, PATIENT) as transport, valkey.client() as client:
        await transport.call("PING")
        for other in await client.client_list():
            if other["id"] != str(await client.client_id()):
                await client.client_kill_filter(_id=other["id"])
        await asyncio.sleep(0.05)
        assert await transport.call("PING") == b"PONG"
    assert caplog.records == []


async def test_a_server_without_memory_refuses_writes_and_still_answers_reads(
    instance: Instance, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(instance.url, PATIENT) as transport:
        stores = stores_over(transport, "redis")
        await stores.sessions.save(KEY, SessionWrite(b"x", 0, 60_000, 60_000))
        await transport.call("CONFIG", "SET", "maxmemory", "1")
        for _ in range(3):
            assert (await failure(stores.limits.admit([CHECK]))).reason.startswith("the server answered OOM")
        assert transport.available
        read = await stores.sessions.load(KEY, idle_ms=60_000, absolute_ms=60_000)
        assert read.record is not None
        assert await stores.sessions.destroy([KEY]) == 1
    assert len(caplog.records) == 1


async def test_scripts_that_the_server_forgot_are_sent_again(valkey: Server) -> None:
    async with connected(valkey.url, PATIENT) as transport, valkey.client() as client:
        stores = stores_over(transport, "redis")
        await stores.limits.admit([CHECK])
        await client.script_flush()
        assert (await stores.limits.admit([CHECK])).states[0][0].remaining == 3


async def test_a_rotated_password_is_read_at_the_next_connect(instance: Instance, tmp_path: Path) -> None:
    (tmp_path / "username").write_text("core\n")
    (tmp_path / "password").write_text("old\n")
    address, _ = parse_url(instance.url)
    transport = RedisTransport("state", address, FileCredentials(tmp_path), TransportSettings(deadline_s=2.0))
    async with connected(instance.url, PATIENT) as admin:
        await admin.call("ACL", "SETUSER", "core", "on", ">old", "~*", "+@all")
        assert await transport.call("ACL", "WHOAMI") == b"core"
        await admin.call("ACL", "SETUSER", "core", "resetpass", ">new")
        await admin.call("CLIENT", "KILL", "USER", "core")
        await asyncio.sleep(0.05)
        assert "password" in (await failure(transport.call("PING"))).reason
        (tmp_path / "password").write_text("new\n")
        await until_back(transport)
        assert await transport.call("ACL", "WHOAMI") == b"core"
    await transport.aclose()


async def test_a_closed_transport_refuses(valkey: Server) -> None:
    async with connected(valkey.url, PATIENT) as transport:
        await transport.call("PING")
    assert (await failure(transport.call("PING"))).reason == "the transport was closed"


async def test_the_reason_for_a_name_that_does_not_exist_says_so() -> None:
    address = Address(host="redis.invalid")
    transport = RedisTransport("cache", address, fixed(Credentials()), TransportSettings(5.0, 5.0))
    error = await failure(transport.call("PING"))
    await transport.aclose()
    assert (error.server, error.reason) == ("cache", "the host name cannot be resolved")
