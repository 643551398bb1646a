"""The embedding cache on every store that there is: large batches, expiry, and a server that goes away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from tests.caches import Clock, Policy
from tests.servers import Server
from tests.stores import STORE_KINDS, Stores, opened

from cachepolicy import Identity
from cachepolicy.caches import EmbeddingCache, ExpireAfter, VectorEncoding
from cachepolicy.durations import Duration
from cachepolicy_runtime.embedding_entries import PART
from cachepolicy_runtime.embeddings import Embeddings, IndexedVector

WHO = Identity("acme", "ann")
DIMENSIONS = 1536


@pytest.fixture(params=STORE_KINDS)
async def stores(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> AsyncIterator[Stores]:
    async with opened(request.param, servers) as found:
        yield found


def vector_of(text: str) -> list[float]:
    """Numbers that both encodings hold exactly."""
    return [float(len(text)), *(float(byte) for byte in text.encode()), *([0.5] * DIMENSIONS)][:DIMENSIONS]


class Provider:
    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, texts: list[str]) -> Sequence[IndexedVector]:
        self.asked += len(texts)
        return [IndexedVector(index, vector_of(text)) for index, text in enumerate(texts)]


@pytest.mark.parametrize("encoding", list(VectorEncoding))
async def test_a_batch_of_megabytes_comes_back_whole(stores: Stores, encoding: VectorEncoding) -> None:
    """Several commands at once, vectors as large as real ones, a third of them known."""
    if stores.kind == "fakeredis":
        pytest.skip("a server in Python takes longer for megabytes than the deadline of a call")
    cache = Embeddings(Policy(store=stores.cache, embeddings=EmbeddingCache(encoding=encoding)).view)
    texts, provider = [f"paragraph {number}" for number in range(8 * PART + 50)], Provider()
    await cache.get_or_embed(texts[::3], provider, model="m", identity=WHO)
    got = await cache.get_or_embed(texts, provider, model="m", identity=WHO)
    assert provider.asked == len(texts)
    assert got.vectors == [vector_of(text) for text in texts]
    again = await cache.get_or_embed(texts[::-1], provider, model="m", identity=WHO)
    assert (again.computed, again.blobs) == (0, got.blobs[::-1])


async def test_a_used_entry_lives_longer_than_its_time_to_live(
    servers: Callable[[str], Server],
) -> None:
    """``expireAfter: Access`` moves the expiry that Redis keeps."""
    async with opened("valkey", servers) as stores:
        clock, provider = Clock(), Provider()
        rules = EmbeddingCache(ttl=Duration.parse("100s"), expire_after=ExpireAfter.ACCESS)
        cache = Embeddings(Policy(store=stores.cache, embeddings=rules).view, now_ms=clock)
        await cache.get_or_embed(["a"], provider, model="m", identity=WHO)
        with servers("valkey").sync_client() as client:
            (name,) = client.keys("*")
            client.pexpire(name, 40_000)
            clock.ms += 60_000
            await cache.get_or_embed(["a"], provider, model="m", identity=WHO)
            assert 90_000 < client.pttl(name) <= 100_000
        assert provider.asked == 1
