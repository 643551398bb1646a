"""Target 8: a session read and touched, read and saved, and read only."""

from __future__ import annotations

import json

import redis.asyncio
from starsessions.stores.redis import RedisStore

from benchmarks import product
from benchmarks.harness import Call, Figure, interleaved, latency, peers_of, ratios, spread_of
from benchmarks.servers import Server
from cachepolicy_runtime import CacheRuntime

_CONTENT = {"cart": [f"article {place}" for place in range(40)], "locale": "de"}
_TTL_S = 1800


async def run(server: Server) -> list[Figure]:
    client = redis.asyncio.Redis.from_url(server.url)
    async with product.started(server.url) as runtime:
        figures = await _measure(server, client, runtime)
    await client.aclose()
    return figures


async def _measure(server: Server, client: redis.asyncio.Redis, runtime: CacheRuntime) -> list[Figure]:
    policy, sessions, peer = runtime.session_policy, runtime.sessions, RedisStore(connection=client)
    assert policy is not None
    session = await sessions.open(policy, None)
    session.update(_CONTENT)
    issued = await sessions.commit(policy, session)
    assert issued is not None
    cookie, data = issued.value, json.dumps(_CONTENT)

    async def read() -> None:
        assert (await sessions.open(policy, cookie))["locale"] == "de"

    async def clean() -> None:
        await sessions.commit(policy, await sessions.open(policy, cookie))

    async def changed() -> None:
        opened = await sessions.open(policy, cookie)
        opened["visits"] = opened.get("visits", 0) + 1
        await sessions.commit(policy, opened)

    async def get_and_setex() -> None:
        content = json.loads(await client.get("session") or b"")
        content["visits"] = content.get("visits", 0) + 1
        await client.setex("session", _TTL_S, json.dumps(content))

    async def starsessions() -> None:
        content = json.loads(await peer.read("a", _TTL_S))
        content["visits"] = content.get("visits", 0) + 1
        await peer.write("a", json.dumps(content).encode(), _TTL_S, _TTL_S)

    await client.setex("session", _TTL_S, data)
    await peer.write("a", data.encode(), _TTL_S, _TTL_S)
    one = await interleaved({"G": latency(lambda: client.get("session"), 400), "ours": latency(read, 400)})
    both = await interleaved(
        {
            "GET+SETEX": latency(get_and_setex, 300),
            "ours": latency(changed, 300),
            "starsessions": latency(starsessions, 300),
        }
    )
    return [
        Figure("8", "session read and touched, p50", ratios(one["ours"], one["G"]), "G", 1.15),
        Figure(
            "8",
            "session read, changed and saved, over GET + SETEX, p50",
            ratios(both["ours"], both["GET+SETEX"]),
            "×",
            1.1,
            peers=peers_of(both, "GET+SETEX", "ours"),
        ),
        Figure(
            "8",
            "writes of a session that was not changed",
            spread_of([await _writes(server, clean)]),
            "writes",
            0.0,
        ),
    ]


async def _writes(server: Server, call: Call) -> float:
    """Writes of content for each of 100 requests; moving the expiry is part of reading."""
    before = server.commands()
    for _ in range(100):
        await call()
    after = server.commands()
    return sum(after.get(name, 0) - before.get(name, 0) for name in ("hset", "hmset", "set", "setex")) / 100
