"""Sentinels name the primary: at the start, after a fail-over that was asked for, after the primary died."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from tests.fleets import Watched, watched
from tests.stores import PATIENT, stores_over, transport_to

from cachepolicy_runtime.store.endpoint import Credentials, fixed, parse_url
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.redis import RedisTransport
from cachepolicy_runtime.store.transport import TransportSettings

#: From the death of the primary until writes work again: 0.5 s to notice, an election, a new connection.
FAIL_OVER_S = 20.0


@pytest.fixture
def pair() -> Iterator[Watched]:
    with watched() as made:
        yield made


async def until_written(transport: RedisTransport, key: str) -> float:
    start = time.monotonic()
    async with asyncio.timeout(FAIL_OVER_S):
        while True:
            try:
                await transport.call("SET", key, "x")
                return time.monotonic() - start
            except StoreUnavailable:
                await asyncio.sleep(0.02)


async def test_the_primary_is_found_and_every_port_works(pair: Watched) -> None:
    transport = transport_to(pair.url)
    stores = stores_over(transport, "redis")
    await stores.cache.put("a", b"x", 60_000)
    assert (await stores.control.acknowledge("pod/1/x", b"{}")).live == 1
    assert pair.servers[0].ask("GET", "a") == "x"
    await transport.aclose()


async def test_after_a_fail_over_writes_go_to_the_new_primary(pair: Watched) -> None:
    transport = transport_to(pair.url, TransportSettings(deadline_s=1.0))
    await transport.call("SET", "a", "x")
    # One that was answered may be lost in a fail-over unless the replica has it.
    await transport.call("WAIT", 1, 900)
    pair.sentinels[0].ask("SENTINEL", "FAILOVER", "main")
    async with asyncio.timeout(FAIL_OVER_S):
        while "master" not in str(pair.servers[1].ask("ROLE")):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    await until_written(transport, "b")
    async with asyncio.timeout(FAIL_OVER_S):
        while pair.servers[1].ask("GET", "b") != "x":
            await until_written(transport, "b")
    assert await transport.call("GET", "a") == b"x"
    await transport.aclose()


async def test_after_the_primary_died_writes_work_again(pair: Watched) -> None:
    transport = transport_to(pair.url, TransportSettings(deadline_s=1.0))
    await transport.call("SET", "a", "x")
    await transport.call("WAIT", 1, 900)
    pair.servers[0].kill()
    await until_written(transport, "b")
    assert await transport.call("MGET", "a", "b") == [b"x", b"x"]
    assert pair.primary_port() == pair.servers[1].port
    await transport.aclose()


async def test_one_sentinel_that_answers_is_enough(pair: Watched) -> None:
    for sentinel in pair.sentinels[:2]:
        sentinel.kill()
    transport = transport_to(pair.url)
    assert await transport.call("PING") == b"PONG"
    await transport.aclose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+sentinel://127.0.0.1:1,127.0.0.1:2/main", "no Sentinel answers"),
        ("redis+sentinel://{sentinel}/other", "the Sentinels know no primary of that name"),
        ("redis://{sentinel}", "the server is a Sentinel: name it as redis+sentinel://host:port/"),
        ("redis+sentinel://{server}/main", "the Sentinels refused the question"),
    ],
)
async def test_what_is_wrong_with_the_sentinels_is_told(url: str, reason: str, pair: Watched) -> None:
    places = {"sentinel": pair.sentinels[0].port, "server": pair.servers[0].port}
    transport = transport_to(url.format(**{name: f"127.0.0.1:{port}" for name, port in places.items()}))
    with pytest.raises(StoreUnavailable) as caught:
        await transport.call("PING")
    await transport.aclose()
    assert caught.value.reason.startswith(reason)


async def test_sentinels_may_ask_for_a_login_of_their_own() -> None:
    with watched() as pair:
        for each in pair.sentinels:
            each.ask("ACL", "SETUSER", "reader", "on", ">of-the-sentinels", "+@all")
            each.ask("ACL", "SETUSER", "default", "off")
        transport = RedisTransport(
            "state",
            parse_url(pair.url)[0],
            fixed(Credentials()),
            PATIENT,
            sentinel_credentials=fixed(Credentials("reader", "of-the-sentinels")),
        )
        assert await transport.call("PING") == b"PONG"
        await transport.aclose()
        transport = transport_to(pair.url)
        with pytest.raises(StoreUnavailable) as caught:
            await transport.call("PING")
        await transport.aclose()
        assert caught.value.reason == "the Sentinels refused the question"
