"""Sets of names beside the entries, over every kind of server and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from tests.servers import KINDS, Server
from tests.stores import LAYOUT, transport_to

from cachepolicy.keys import slot
from cachepolicy_runtime.store.indexes import START, IndexStore, MemoryIndexStore, RedisIndexStore

INDEX = LAYOUT.index("acme", "langchain", "vectors")
LONG = 60_000


@pytest.fixture(params=["memory", *KINDS])
async def indexes(
    request: pytest.FixtureRequest, servers: Callable[[str], Server]
) -> AsyncIterator[IndexStore]:
    if request.param == "memory":
        yield MemoryIndexStore()
        return
    server = servers(request.param)
    server.flush()
    transport = transport_to(server.url)
    yield RedisIndexStore(transport)
    await transport.aclose()


async def listed(indexes: IndexStore) -> set[bytes]:
    cursor, found = await indexes.page(INDEX, START)
    members = set(found)
    while cursor != START:
        cursor, found = await indexes.page(INDEX, cursor)
        members |= set(found)
    return members


async def test_what_was_added_and_not_removed_is_listed(indexes: IndexStore) -> None:
    assert await listed(indexes) == set()
    await indexes.add(INDEX, [b"one", b"two"], LONG)
    await indexes.add(INDEX, [b"two", b"\xff\x00"], LONG)
    await indexes.remove(INDEX, [b"one", b"never"])
    assert await listed(indexes) == {b"two", b"\xff\x00"}


async def test_a_large_set_is_listed_whole_page_by_page(indexes: IndexStore) -> None:
    members = {f"key-{number}".encode() for number in range(3000)}
    await indexes.add(INDEX, sorted(members), LONG)
    assert await listed(indexes) == members


async def test_a_set_ends_with_the_time_to_live_of_what_was_added_last(indexes: IndexStore) -> None:
    await indexes.add(INDEX, [b"one"], 1)
    async with asyncio.timeout(10):
        while await listed(indexes):  # noqa: ASYNC110 - the clock of the store
            await asyncio.sleep(0.001)


def test_a_set_lies_with_its_entries() -> None:
    assert slot(INDEX) == slot(LAYOUT.response("acme", "langchain", "d"))
