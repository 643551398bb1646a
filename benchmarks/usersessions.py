"""Targets 8 and 9: a session read and touched, read and saved, read only, and together with the limits."""

from __future__ import annotations

import json

import redis
import redis.asyncio
from starsessions.stores.redis import RedisStore

from benchmarks import product
from benchmarks.harness import Call, Figure, interleaved, latency, peers_of, ratios, spread_of
from benchmarks.servers import Server
from cachepolicy_runtime import CacheRuntime, RateLimitMiddleware, SessionMiddleware
from cachepolicy_runtime.asgi.types import Message, Receive, Scope, Send

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
        Figure(
            "9",
            "writes to the socket of Redis for the session and the limits of one request",
            spread_of(await _reads(server, runtime, str(cookie))),
            "writes",
            1.0,
        ),
    ]


async def _reads(server: Server, runtime: CacheRuntime, cookie: str) -> list[float]:
    """What the server read for each of 100 requests through both middlewares. What leaves in one write comes in
    one read; the one for INFO is not counted, and a heartbeat in between makes one of them more."""
    policy = runtime.session_policy
    assert policy is not None
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "headers": [(b"cookie", f"{policy.rules.cookie.name}={cookie}".encode())],
        "client": ("192.0.2.1", 5),
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["session"]["locale"] == "de"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200

    core = RateLimitMiddleware(SessionMiddleware(app, runtime=runtime), runtime=runtime)
    counts = []
    with redis.Redis.from_url(server.url) as watcher:
        for _ in range(100):
            before = watcher.info("stats")["total_reads_processed"]
            await core(dict(scope), receive, send)
            counts.append(float(watcher.info("stats")["total_reads_processed"] - before - 1))
    return counts


async def _writes(server: Server, call: Call) -> float:
    """Writes of content for each of 100 requests; moving the expiry is part of reading."""
    before = server.commands()
    for _ in range(100):
        await call()
    after = server.commands()
    return sum(after.get(name, 0) - before.get(name, 0) for name in ("hset", "hmset", "set", "setex")) / 100
