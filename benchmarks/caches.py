"""Targets 5, 6, 10 and 15: hits from Redis and from the process, the key of a request, embeddings, coalescing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

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
    mean_latency,
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
            await _first_level(server),
            await _coalescing(server),
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


async def _first_level(server: Server) -> Figure:
    """Through the public call, with a key that was derived before; cashews' memory beside it."""

    async def provider() -> Answer:
        return Answer(200, _BODY, {"content-type": "application/json"})

    cashews = Cache()
    cashews.setup("mem://")
    await cashews.set("hit", _BODY)
    async with product.started(
        server.url, spec={"responseCache": {"ttl": "1h", "local": {"ttl": "1h"}}}
    ) as runtime:
        responses, who = runtime.responses, product.WHO
        key = responses.key(_REQUEST, provider="openai", identity=who)

        async def ours() -> None:
            outcome = await responses.get_or_call(
                _REQUEST, provider, provider="openai", identity=who, key=key
            )
            assert outcome.hit

        await responses.get_or_call(_REQUEST, provider, provider="openai", identity=who)
        samples = await interleaved(
            {"ours": mean_latency(ours, 5_000), "cashews": mean_latency(lambda: cashews.get("hit"), 1_000)}
        )
        assert responses.counts.local_hits > 5_000
    await cashews.close()
    micro = {name: spread_of([value * 1e6 for value in values]) for name, values in samples.items()}
    return Figure(
        "6",
        "hit from the first level, 4 KB, key given",
        micro["ours"],
        "µs",
        5.0,
        peers={"cashews, memory": micro["cashews"].value},
    )


async def _coalescing(server: Server) -> Figure:
    """A hundred identical requests at once over four replicas, each with connections of its own."""
    calls: list[int] = []

    async def provider() -> Answer:
        calls.append(1)
        await asyncio.sleep(0.05)
        return Answer(200, _BODY, {"content-type": "application/json"})

    async def once(number: int, replicas: Sequence[CacheRuntime]) -> float:
        calls.clear()
        request = replace(_REQUEST, body={**_REQUEST.body, "seed": number})
        await asyncio.gather(
            *(
                replica.responses.get_or_call(request, provider, provider="openai", identity=product.WHO)
                for replica in replicas
                for _ in range(25)
            )
        )
        return float(len(calls))

    with product.policy(server.url, spec={"responseCache": {"ttl": "1h", "coalesce": {}}}) as folder:
        async with AsyncExitStack() as stack:
            replicas = [product.runtime_of(folder) for _ in range(4)]
            for replica in replicas:
                await stack.enter_async_context(replica.lifespan())
            counted = [await once(number, replicas) for number in range(20)]
    return Figure(
        "15",
        "calls of the provider for 100 identical requests over 4 replicas",
        spread_of(counted),
        "calls",
        1.0,
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
