"""Leases on entries: one holder, released by its holder alone, and all who wait are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
from tests.servers import KINDS, Server
from tests.stores import LAYOUT, load_scripts, transport_to

from cachepolicy.keys import slot
from cachepolicy_runtime.store.leases import Claim, RedisLeaseStore
from cachepolicy_runtime.store.redis_stores import RedisCacheStore
from cachepolicy_runtime.store.transport import Transport

ENTRY = LAYOUT.response("acme", "openai", "d")
LEASE = f"{ENTRY}:stamp"
LONG = 60_000


@pytest.fixture(params=KINDS)
async def transport(
    request: pytest.FixtureRequest, servers: Callable[[str], Server]
) -> AsyncIterator[Transport]:
    server = servers(request.param)
    server.flush()
    if request.param == "fakeredis":
        load_scripts(server)
    found = transport_to(server.url)
    yield found
    await found.aclose()


@pytest.fixture
def leases(transport: Transport) -> RedisLeaseStore:
    return RedisLeaseStore(transport, LAYOUT.released_channel)


async def test_of_all_who_claim_at_once_one_holds_the_lease(leases: RedisLeaseStore) -> None:
    claims = await asyncio.gather(*(leases.claim(LEASE, f"n{number}", LONG, ENTRY) for number in range(50)))
    assert [claim.held for claim in claims].count(True) == 1
    assert not any(claim.apart for claim in claims)


async def test_a_claim_shows_the_entry_as_it_is_after_it(
    leases: RedisLeaseStore, transport: Transport
) -> None:
    assert await leases.claim(LEASE, "a", LONG, ENTRY) == Claim(True, False, None)
    await RedisCacheStore(transport).put(ENTRY, b"answer", LONG)
    assert await leases.claim(LEASE, "b", LONG, ENTRY) == Claim(False, False, b"answer")


async def test_only_its_holder_renews_and_releases_a_lease(
    leases: RedisLeaseStore, transport: Transport
) -> None:
    await leases.claim(LEASE, "a", 1000, ENTRY)
    assert not await leases.renew(LEASE, "b", LONG)
    await leases.release(LEASE, "b", 0)
    assert await transport.call("GET", LEASE) == b"a"
    assert await leases.renew(LEASE, "a", LONG)
    left = await transport.call("PTTL", LEASE)
    assert isinstance(left, int)
    assert LONG - 10_000 < left <= LONG
    await leases.release(LEASE, "a", 0)
    assert await transport.call("GET", LEASE) is None


async def test_a_lease_whose_holder_died_ends_by_itself(leases: RedisLeaseStore) -> None:
    await leases.claim(LEASE, "a", 1, ENTRY)
    async with asyncio.timeout(10):
        while not (await leases.claim(LEASE, "b", LONG, ENTRY)).held:  # noqa: ASYNC110 - the server's clock
            await asyncio.sleep(0.001)
    assert not await leases.renew(LEASE, "a", LONG)


async def test_after_an_answer_that_cannot_be_kept_nobody_holds_it_for_a_while(
    leases: RedisLeaseStore, transport: Transport
) -> None:
    await leases.claim(LEASE, "a", LONG, ENTRY)
    await leases.release(LEASE, "a", LONG)
    assert await leases.claim(LEASE, "b", LONG, ENTRY) == Claim(False, True, None)
    assert not await leases.renew(LEASE, "b", LONG)
    left = await transport.call("PTTL", LEASE)
    assert isinstance(left, int)
    assert 0 < left <= LONG


async def test_a_release_wakes_those_who_listen(leases: RedisLeaseStore) -> None:
    """Once when listening begins, for some may have been missed, and once for each release."""
    await leases.claim(LEASE, "a", LONG, ENTRY)
    async with asyncio.timeout(10), aclosing(leases.released()) as names:
        assert await anext(names) == ""
        await leases.release(LEASE, "a", 0)
        assert await anext(names) in ("", LEASE)


def test_a_lease_lies_where_its_entry_does() -> None:
    """A cluster reads both in one round trip."""
    assert slot(LEASE) == slot(ENTRY)
