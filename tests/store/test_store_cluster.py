"""A cache in a Redis Cluster of three: each verb, slots that move, a node that goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.fleets import Cluster, Node, cluster, node, wait_until
from tests.stores import LAYOUT, PATIENT, transport_to

from cachepolicy.keys import slot
from cachepolicy_runtime.store.cluster import ClusterTransport, slot_of
from cachepolicy_runtime.store.cluster_control import ClusterControlStore
from cachepolicy_runtime.store.endpoint import fixed, parse_url
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.port import CacheItem
from cachepolicy_runtime.store.redis_stores import RedisCacheStore
from cachepolicy_runtime.store.transport import TransportSettings

KEYS = [f"masterclaw/core:c:{{tenant{i}}}:r:openai:{i}" for i in range(30)]


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
async def transport(three: Cluster) -> AsyncIterator[ClusterTransport]:
    three.flush()
    made = transport_over(three)
    yield made
    await made.aclose()


def transport_over(three: Cluster, settings: TransportSettings = PATIENT) -> ClusterTransport:
    address, credentials = parse_url(three.url)
    return ClusterTransport("cache", address, fixed(credentials), settings)


def test_a_key_has_the_slot_of_its_hash_tag() -> None:
    for key in (*KEYS, "plain", "a{}b", "a{b", "{ü}x", "a{b}{c}"):
        assert slot_of(key) == slot_of(key.encode()) == slot(key)


async def test_each_verb_of_a_cache_works_over_all_nodes(transport: ClusterTransport, three: Cluster) -> None:
    store = RedisCacheStore(transport)
    await store.mput([CacheItem(key, key.encode(), 60_000) for key in KEYS[:20]])
    await store.put(KEYS[20], b"one", 60_000)
    assert await store.get(KEYS[20]) == b"one"
    assert await store.mget([*KEYS[:20], KEYS[25], KEYS[20]]) == [
        *(key.encode() for key in KEYS[:20]),
        None,
        b"one",
    ]
    assert all(node.ask("DBSIZE") for node in three.nodes)
    await store.delete(*KEYS[:10])
    assert await store.mget(KEYS[:11]) == [*([None] * 10), KEYS[10].encode()]
    assert await store.mget([]) == []


async def test_the_control_keys_work_where_there_is_no_other_server(transport: ClusterTransport) -> None:
    control = ClusterControlStore(transport, LAYOUT)
    beats = [await control.acknowledge(f"pod/{i}/x", b"{}") for i in range(2)]
    assert [beat.live for beat in beats] == [1, 2]
    assert beats[0].epoch == beats[1].epoch != ""
    assert await transport.call("GET", LAYOUT.acknowledgement("pod/1/x")) == b"{}"
    assert await transport.call("PTTL", LAYOUT.acknowledgement("pod/1/x")) in range(1, 10_001)
    await control.withdraw("pod/0/x")
    assert (await control.acknowledge("pod/1/x", b"{}")).live == 1
    assert (await control.stamps())["all"] == (await control.set_stamps(["kind=r"]))["all"]
    assert await control.document() is None


async def test_a_wake_up_reaches_a_listener_on_whatever_node(transport: ClusterTransport) -> None:
    control = ClusterControlStore(transport, LAYOUT)
    wakes = control.wakes()
    await anext(wakes)
    await control.wake()
    async with asyncio.timeout(10):
        await anext(wakes)
    await wakes.aclose()


async def test_a_slot_that_has_moved_is_followed_and_then_known(
    transport: ClusterTransport, three: Cluster
) -> None:
    key = "{moved}"
    number = slot_of(key)
    source = three.owner(number)
    target = next(node for node in three.nodes if node is not source)
    assert await transport.call("GET", key) is None
    three.migrate_end(number, target)
    try:
        assert await asyncio.gather(*(transport.call("SET", key, str(i)) for i in range(50))) == [b"OK"] * 50
        assert await transport.pipeline([("SET", key, "x"), ("GET", key)]) == [b"OK", b"x"]
        refused = redirections(source)
        assert await transport.call("GET", key) == b"x"
        assert redirections(source) == refused
    finally:
        target.ask("DEL", key)
        three.migrate_end(number, source)


async def test_a_slot_that_is_moving_is_asked_for_where_it_goes(
    transport: ClusterTransport, three: Cluster
) -> None:
    key = "{moving}"
    number = slot_of(key)
    source = three.owner(number)
    target = next(node for node in three.nodes if node is not source)
    three.migrate_begin(number, source, target)
    try:
        assert await transport.call("SET", key, "new") == b"OK"
        assert await transport.call("GET", key) == b"new"
        assert await transport.call("MGET", key, "{other}") == [b"new", None]
        assert source.ask("CLUSTER", "COUNTKEYSINSLOT", number) == 0
        assert target.ask("CLUSTER", "COUNTKEYSINSLOT", number) == 1
    finally:
        three.migrate_end(number, target)
        target.ask("DEL", key)
        three.migrate_end(number, source)


def redirections(source: Node) -> str:
    """How often it answered MOVED, in its own words."""
    return str(source.ask("INFO", "errorstats")).partition("MOVED")[2][:40]


async def test_a_node_that_is_gone_costs_its_own_keys_only_and_says_so() -> None:
    with cluster() as three:
        transport = transport_over(three, TransportSettings(deadline_s=1.0))
        store = RedisCacheStore(transport)
        await store.mput([CacheItem(key, b"x", 60_000) for key in KEYS])
        gone = three.nodes[1]
        gone.kill()
        found, missing = 0, 0
        start = time.monotonic()
        for key in KEYS:
            try:
                assert await store.get(key) == b"x"
                found += 1
                assert three.owner(slot_of(key)) is not gone
            except StoreUnavailable:
                missing += 1
        assert time.monotonic() - start < 5
        assert found
        assert missing
        assert not transport.available
        assert transport.reason == "1 of 3 nodes: connection refused"
        gone.start()
        async with asyncio.timeout(15):
            while not transport.available:  # noqa: ASYNC110 - the transport has no event that product code needs
                await asyncio.sleep(0.05)
        for key in KEYS:
            assert await store.get(key) in (b"x", None)
        await transport.aclose()


async def test_a_replica_that_takes_over_is_found() -> None:
    with cluster() as three, three.replica_of(three.nodes[0]) as replica:
        transport = transport_over(three, TransportSettings(deadline_s=1.0))
        store = RedisCacheStore(transport)
        await store.mput([CacheItem(key, b"x", 600_000) for key in KEYS])
        # WAIT would wait for nothing here: it counts the writes of its own connection.
        wait_until(lambda: replica.ask("DBSIZE") == three.nodes[0].ask("DBSIZE"))
        three.nodes[0].kill()
        lost = [key for key in KEYS if three.owner(slot_of(key)) is three.nodes[0]]
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await store.mget(lost) == [b"x"] * len(lost)
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.1)
        assert "master" in str(replica.ask("ROLE"))
        assert transport.available, "a node that has no slot any more is not asked for its health"
        await transport.aclose()


async def test_a_cluster_of_which_no_node_answers_fails_in_time() -> None:
    address, credentials = parse_url("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    transport = ClusterTransport("cache", address, fixed(credentials), TransportSettings(deadline_s=0.1))
    for _ in range(3):
        start = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            await transport.call("GET", "a")
        assert caught.value.reason == "connection refused"
        assert time.monotonic() - start < 1.1
    await transport.aclose()
    with pytest.raises(StoreUnavailable, match="the transport was closed"):
        await transport.call("GET", "a")


async def test_a_node_of_a_cluster_is_refused_as_a_server_of_its_own(three: Cluster) -> None:
    transport = transport_to(f"redis://127.0.0.1:{three.nodes[0].port}")
    with pytest.raises(StoreUnavailable) as caught:
        await transport.call("PING")
    await transport.aclose()
    assert "is a node of a Redis Cluster" in caught.value.reason
    assert "sessions and rate limits cannot be kept in one" in caught.value.reason


async def test_a_server_of_its_own_is_refused_as_a_node_of_a_cluster(valkey_port: int) -> None:
    address, credentials = parse_url(f"redis+cluster://127.0.0.1:{valkey_port}")
    transport = ClusterTransport("cache", address, fixed(credentials), PATIENT)
    with pytest.raises(StoreUnavailable) as caught:
        await transport.call("GET", "a")
    await transport.aclose()
    assert caught.value.reason == "the server is no node of a Redis Cluster"


@pytest.fixture
def valkey_port() -> Iterator[int]:
    with node() as made:
        yield made.port


async def test_a_question_to_all_reaches_every_node(transport: ClusterTransport) -> None:
    """Such as INFO: one answer from each that holds data."""
    for key in KEYS:
        await transport.call("SET", key, b"v")
    counts = await transport.each("DBSIZE")
    assert len(counts) == 3
    assert sum(count for count in counts if isinstance(count, int)) == len(KEYS)
