"""Targets 5, 6 and 10: a hit from Redis, the key of a request, a batch of embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import aiocache
import aiocache.serializers
import numpy as np
import redis.asyncio
from cashews import Cache
from redisvl.extensions.cache.embeddings import EmbeddingsCache

from benchmarks import product
from benchmarks.harness import (
    Call,
    Figure,
    interleaved,
    latency,
    peers_of,
    per_call,
    ratios,
    spread_of,
    throughput,
)
from benchmarks.servers import Server
from cachepolicy.keys import tenant_scope
from cachepolicy_runtime import CacheRuntime
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.embeddings import IndexedVector
from cachepolicy_runtime.keys import CacheSecret, UpstreamRequest, response_digest

_BODY = (
    b'{"choices":[{"finish_reason":"stop","message":{"content":"'
    + b"x" * 3900
    + b'"}}],"usage":{"prompt_tokens":9,"completion_tokens":9}}'
)
_TURN = "What a customer writes to a support desk in a few words. " * 6
_REQUEST = UpstreamRequest(
    "https://api.openai.com/v1/chat/completions",
    {
        "model": "gpt-4o",
        "temperature": 0.2,
        "messages": [
            {"role": "user" if turn % 2 else "assistant", "content": f"{turn} {_TURN}"} for turn in range(11)
        ],
    },
)
_TEXTS = [f"A paragraph of a document that is number {place}" for place in range(100)]
_DIMENSIONS = 1536
_VECTOR = [place / _DIMENSIONS for place in range(_DIMENSIONS)]


async def run(server: Server) -> list[Figure]:
    client = redis.asyncio.Redis.from_url(server.url)
    async with product.started(server.url) as runtime:
        figures = [
            *await _responses(server, client, runtime),
            await _key(),
            await _embeddings(client, runtime),
        ]
    await client.aclose()
    return figures


async def _responses(server: Server, client: redis.asyncio.Redis, runtime: CacheRuntime) -> list[Figure]:
    responses = runtime.responses

    async def provider() -> Answer:
        return Answer(200, _BODY, {"content-type": "application/json"})

    async def ours() -> None:
        outcome = await responses.get_or_call(_REQUEST, provider, provider="openai", identity=product.WHO)
        assert outcome.hit

    stored = await responses.get_or_call(_REQUEST, provider, provider="openai", identity=product.WHO)
    assert stored.cache_status.endswith("stored"), stored.cache_status
    cashews, plain = (
        Cache(),
        aiocache.Cache(
            aiocache.Cache.REDIS,
            endpoint="127.0.0.1",
            port=server.port,
            serializer=aiocache.serializers.NullSerializer(encoding=None),
        ),
    )
    cashews.setup(server.url)
    await client.set("floor", _BODY)
    await cashews.set("hit", _BODY)
    await plain.set("hit", _BODY)
    calls: dict[str, Call] = {
        "G": lambda: client.get("floor"),
        "ours": ours,
        "cashews, key given": lambda: cashews.get("hit"),
        "aiocache, key given": lambda: plain.get("hit"),
    }
    slow = await interleaved({name: latency(call, 300) for name, call in calls.items()})
    fast = await interleaved({name: throughput(call, 1500) for name, call in calls.items()})
    await cashews.close()
    await plain.close()
    return [
        Figure(
            "5",
            "response-cache hit from Redis, 4 KB, key derived, p50",
            ratios(slow["ours"], slow["G"]),
            "G",
            1.0,
            peers=peers_of(slow, "G", "ours"),
        ),
        Figure(
            "5",
            "hits per second, 100 tasks",
            ratios(fast["ours"], fast["G"]),
            "G",
            4.0,
            at_least=True,
            peers=peers_of(fast, "G", "ours"),
        ),
    ]


async def _key() -> Figure:
    secret, scope = CacheSecret.derive(b"a key of a benchmark"), tenant_scope(product.WHO.tenant)
    samples = await interleaved(
        {"ours": per_call(lambda: response_digest(secret, scope, "openai", _REQUEST), 5_000)}
    )
    return Figure(
        "6", "key of a 4 KB request", spread_of([value * 1e6 for value in samples["ours"]]), "µs", 20.0
    )


async def _embeddings(client: redis.asyncio.Redis, runtime: CacheRuntime) -> Figure:
    async def embed(texts: list[str]) -> Sequence[IndexedVector]:
        return [IndexedVector(place, _VECTOR) for place in range(len(texts))]

    async def ours() -> None:
        found = await runtime.embeddings.get_or_embed(_TEXTS, embed, model="m", identity=product.WHO)
        assert [np.frombuffer(blob, np.float32) for blob in found.blobs]

    async def floor() -> None:
        assert [np.frombuffer(blob, np.float32) for blob in await client.mget(keys)]

    peer = EmbeddingsCache(async_redis_client=client)
    keys = [f"vector:{place}" for place in range(len(_TEXTS))]
    blob = np.array(_VECTOR, np.float32).tobytes()
    await client.mset(dict.fromkeys(keys, blob))
    await ours()
    await peer.amset([{"content": text, "model_name": "m", "embedding": _VECTOR} for text in _TEXTS])
    slow = await interleaved(
        {
            "floor": latency(floor, 30),
            "ours": latency(ours, 30),
            "redisvl": latency(lambda: peer.amget(_TEXTS, "m"), 2),
        }
    )
    return Figure(
        "10",
        "100 embeddings × 1536, over MGET + frombuffer, p50",
        ratios(slow["ours"], slow["floor"]),
        "×",
        1.15,
        peers=peers_of(slow, "floor", "ours"),
    )
