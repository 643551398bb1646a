"""States that a server can be in, brought about for real: loading, read-only, busy, with another login."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator

import pytest
from tests.fleets import Node, node, wait_until
from tests.outages import failure, until_back
from tests.stores import LAYOUT, PATIENT, stores_over, transport_to

from cachepolicy_runtime.store.endpoint import Address, fixed, parse_url
from cachepolicy_runtime.store.endpoint import Credentials as Login
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.port import LimitCheck, SessionWrite, WindowRate
from cachepolicy_runtime.store.redis import RedisTransport
from cachepolicy_runtime.store.transport import TransportSettings

CHECK = LimitCheck((WindowRate("masterclaw/core:l:x", 5, 60_000),))


@pytest.fixture
def server() -> Iterator[Node]:
    with node("--enable-debug-command", "yes") as made:
        yield made


# --- servers


async def test_a_server_that_loads_its_data_is_away_and_used_when_it_has(
    server: Node, caplog: pytest.LogCaptureFixture
) -> None:
    server.ask("DEBUG", "POPULATE", 20_000)
    server.ask("SAVE")
    server.kill()
    caplog.set_level(logging.INFO, "cachepolicy.store")
    server.start("--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024")
    transport = transport_to(f"redis://127.0.0.1:{server.port}")
    reasons = set()
    async with asyncio.timeout(30):
        while True:
            try:
                await transport.call("GET", "key:1")
                break
            except StoreUnavailable as error:
                reasons.add(error.reason)
                await asyncio.sleep(0.01)
    await transport.aclose()
    assert "the server answered LOADING" in reasons
    assert reasons <= {"the server answered LOADING", "connection refused"}
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_replica_that_only_reads_refuses_writes_and_still_answers_reads(
    server: Node, caplog: pytest.LogCaptureFixture
) -> None:
    with node() as primary:
        transport = transport_to(f"redis://127.0.0.1:{server.port}")
        stores = stores_over(transport, "redis")
        await stores.cache.put("masterclaw/core:c:a", b"x", 60_000)
        server.ask("CONFIG", "SET", "replica-serve-stale-data", "yes")
        server.ask("REPLICAOF", "127.0.0.1", primary.port)
        for _ in range(3):
            assert (await failure(stores.limits.admit([CHECK]))).startswith("the server answered READONLY")
            assert (await failure(stores.cache.put("masterclaw/core:c:b", b"x", 1000))) == (
                "the server answered READONLY"
            )
            await stores.cache.get("masterclaw/core:c:a")
        assert transport.available
        server.ask("REPLICAOF", "NO", "ONE")
        await stores.cache.put("masterclaw/core:c:b", b"x", 1000)
        await transport.aclose()
    assert {record.message for record in caplog.records} <= {
        "state store: the server answered READONLY to a command",
        *(
            f"state store: the server answered READONLY at user_script:{n} to a command"
            for n in range(1, 400)
        ),
    }


async def test_a_server_that_came_back_empty_is_used_at_once_and_its_epoch_tells(server: Node) -> None:
    transport = transport_to(f"redis://127.0.0.1:{server.port}")
    stores = stores_over(transport, "redis")
    key = LAYOUT.session("a")
    await stores.sessions.save(key, SessionWrite(b"x", 0, 60_000, 60_000))
    first = await stores.sessions.load(key, idle_ms=1000, absolute_ms=1000)
    server.kill()
    await failure(stores.sessions.load(key, idle_ms=1000, absolute_ms=1000))
    server.start()
    wait_until(lambda: server.answers)
    await until_back(transport)
    second = await stores.sessions.load(key, idle_ms=1000, absolute_ms=1000)
    await transport.aclose()
    assert first.record is not None
    assert second.record is None
    assert first.epoch != second.epoch


@pytest.mark.timeout(300)
async def test_a_million_keys_make_no_call_slower_than_its_budget(server: Node) -> None:
    server.ask("DEBUG", "POPULATE", 1_000_000)
    transport = transport_to(f"redis://127.0.0.1:{server.port}", TransportSettings(deadline_s=1.0))
    stores = stores_over(transport, "redis")
    await asyncio.gather(
        *(stores.limits.admit([CHECK]) for _ in range(50)),
        *(stores.cache.get(f"key:{i}") for i in range(50)),
        *(stores.control.acknowledge(f"pod/{i}/x", b"{}") for i in range(50)),
        stores.control.set_stamps(["all"]),
    )
    assert server.ask("DBSIZE") == 1_000_000 + 1 + 50 + 3
    await transport.aclose()


async def test_a_server_in_a_busy_script_is_away_and_not_disturbed(server: Node) -> None:
    transport = transport_to(f"redis://127.0.0.1:{server.port}", TransportSettings(deadline_s=0.2))
    try:
        await transport.call("CONFIG", "SET", "busy-reply-threshold", "10")
        endless = asyncio.ensure_future(failure(transport.call("EVAL", "while true do end", 0)))
        assert await endless == "no answer within 200 ms"
        await asyncio.sleep(0.5)
        assert not transport.available
        server.ask("SCRIPT", "KILL")
        await until_back(transport)
    finally:
        await transport.aclose()


# --- logins


async def test_a_rotated_login_is_used_on_the_open_connection_and_no_call_fails(server: Node) -> None:
    login = Login("core", "old")
    transport = RedisTransport(
        "state", parse_url(f"redis://127.0.0.1:{server.port}")[0], lambda: login, PATIENT
    )
    server.ask("ACL", "SETUSER", "core", "on", ">old", "~*", "&*", "+@all", "-@admin", "+acl|whoami")

    def user() -> str:
        with server.client() as client:
            names = {one["name"]: str(one["user"]) for one in client.client_list()}
            return names["cachepolicy-state"]

    async def work(turns: int) -> None:
        for turn in range(turns):
            assert await transport.call("ECHO", str(turn)) == str(turn).encode()
            await asyncio.sleep(0.002)

    await work(20)
    assert user() == "core"
    server.ask("ACL", "SETUSER", "next", "on", ">new", "~*", "&*", "+@all", "-@admin", "+acl|whoami")
    login = Login("next", "new")
    async with asyncio.timeout(20):
        while user() != "next":
            await work(100)
    connection = server.ask("CLIENT", "LIST")
    server.ask("ACL", "DELUSER", "core")  # which closes every connection that it has
    await work(50)
    assert len(str(connection).splitlines()) == len(str(server.ask("CLIENT", "LIST")).splitlines())
    assert transport.available
    await transport.aclose()


async def test_a_rotated_login_that_the_server_does_not_know_yet_breaks_nothing(server: Node) -> None:
    login = Login("core", "old")
    address = parse_url(f"redis://127.0.0.1:{server.port}")[0]
    transport = RedisTransport("state", address, lambda: login, PATIENT)
    server.ask("ACL", "SETUSER", "core", "on", ">old", "~*", "&*", "+@all")
    await transport.call("PING")
    login = Login("core", "new")
    server.ask("CLIENT", "KILL", "USER", "core")
    await asyncio.sleep(0.05)
    assert await transport.call("PING") == b"PONG"
    server.ask("ACL", "SETUSER", "core", "resetpass", ">new")
    server.ask("CLIENT", "KILL", "USER", "core")
    await asyncio.sleep(0.05)
    assert await transport.call("PING") == b"PONG"
    await transport.aclose()


async def test_a_right_that_is_missing_fails_the_one_call(server: Node) -> None:
    server.ask("ACL", "SETUSER", "core", "on", ">old", "~a", "+get", "+hello", "+ping")
    address: Address = parse_url(f"redis://127.0.0.1:{server.port}")[0]
    transport = RedisTransport("state", address, fixed(Login("core", "old")), PATIENT)
    assert await transport.call("GET", "a") is None
    assert await failure(transport.call("GET", "b")) == "the server answered NOPERM"
    assert await failure(transport.call("SET", "a", "1")) == "the server answered NOPERM"
    assert transport.available
    await transport.aclose()


# --- the subscription


async def test_a_subscription_whose_server_hangs_ends(server: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachepolicy_runtime.store.listen.QUIET_S", 0.1)
    transport = transport_to(f"redis://127.0.0.1:{server.port}")
    messages = transport.listen("channel")
    await anext(messages)
    await transport.call("PUBLISH", "channel", "")
    await anext(messages)
    server.signal(signal.SIGSTOP)
    async with asyncio.timeout(5):
        assert await failure(anext(messages)) == "no connection in time"
    await transport.aclose()


async def test_a_listener_that_is_slow_is_told_that_it_missed_some(server: Node) -> None:
    transport = transport_to(f"redis://127.0.0.1:{server.port}")
    messages = transport.listen("channel")
    assert await anext(messages) == b""
    await transport.call("PUBLISH", "channel", "one")
    assert await anext(messages) == b"one"
    await transport.pipeline([("PUBLISH", "channel", str(i)) for i in range(3000)])
    seen: list[bytes] = []
    while b"" not in seen:
        seen.append(await anext(messages))
    assert len(seen) < 3000
    # What comes after it is told was not before it.
    async with asyncio.timeout(20):
        while seen[-1] != b"last":
            await transport.call("PUBLISH", "channel", "last")
            seen.append(await anext(messages))
    await messages.aclose()
    await transport.aclose()
