"""Targets 1 to 3: one decision, decisions per second, a decision in memory."""

from __future__ import annotations

from typing import Any

import redis.asyncio
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis_fastapi import RateLimitBackend
from throttled.asyncio import RedisStore, Throttled, per_min

from benchmarks import product
from benchmarks.harness import (
    Call,
    Figure,
    Spread,
    interleaved,
    latency,
    peers_of,
    per_call,
    ratios,
    spread_of,
    throughput,
)
from benchmarks.servers import Server
from cachepolicy.keys import KeyLayout
from cachepolicy.limits import RateLimit
from cachepolicy_runtime.ratelimit import RateLimiter, Subject, compile_limits
from cachepolicy_runtime.store.endpoint import fixed, parse_url
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.store.port import LimitCheck, WindowRate
from cachepolicy_runtime.store.redis import RedisTransport, TransportSettings
from cachepolicy_runtime.store.redis_limits import RedisLimitStore

_MANY = 1_000_000_000
_KEYS = KeyLayout("bench/core")
_SUBJECT = Subject("GET", "/", "192.0.2.1", product.WHO)
_LIMITS = compile_limits({name: RateLimit.model_validate(limit) for name, limit in product.LIMITS.items()})


async def run(server: Server) -> list[Figure]:
    address, credentials = parse_url(server.url)
    transport = RedisTransport(
        "state", address, fixed(credentials), TransportSettings(product.PATIENT_MS / 1000)
    )
    client = redis.asyncio.Redis.from_url(server.url)
    limiter = RateLimiter(RedisLimitStore(transport), MemoryLimitStore(), lambda: 1)
    sha = await client.script_load("return 1")
    calls: dict[str, Call] = {
        "F": lambda: client.evalsha(sha, 0),
        "ours": lambda: limiter.admit(_LIMITS, _KEYS, _SUBJECT),
        **_peers(server, client),
    }
    slow = await interleaved({name: latency(call, 300) for name, call in calls.items()})
    fast = await interleaved({name: throughput(call, 1500) for name, call in calls.items()})
    commands = await _commands_of_one(server, calls["ours"])
    await transport.aclose()
    await client.aclose()
    return [
        Figure(
            "1",
            "one decision with remaining, reset and retry-after, p50",
            ratios(slow["ours"], slow["F"]),
            "F",
            1.0,
            peers=peers_of(slow, "F", "ours"),
        ),
        Figure("1", "commands of one decision", spread_of([commands]), "commands", 1.0),
        Figure(
            "2",
            "decisions per second, 100 tasks",
            ratios(fast["ours"], fast["F"]),
            "F",
            3.0,
            at_least=True,
            peers=peers_of(fast, "F", "ours"),
        ),
        Figure("3", "a decision in this process's memory", await _in_memory(), "µs", 2.0),
    ]


def _peers(server: Server, client: Any) -> dict[str, Call]:
    item = RateLimitItemPerMinute(_MANY)
    window = SlidingWindowCounterRateLimiter(RedisStorage(f"async+{server.url}", implementation="redispy"))
    throttle = Throttled(using="sliding_window", quota=per_min(_MANY), store=RedisStore(server=server.url))
    backend = RateLimitBackend(client)

    async def with_header_data() -> None:
        await window.hit(item, "alice")
        await window.get_window_stats(item, "alice")

    return {
        "limits, yes or no only": lambda: window.hit(item, "alice"),
        "limits, with header data": with_header_data,
        "throttled-py": lambda: throttle.limit("alice"),
        "fastapi-redis-sdk": lambda: backend.hit("alice", limit=_MANY, window=60),
    }


async def _commands_of_one(server: Server, call: Call) -> float:
    """Commands sent for each of 100 decisions, without those inside the script and of our look itself."""
    before = server.commands()
    for _ in range(100):
        await call()
    sent = {name: calls - before.get(name, 0) for name, calls in server.commands().items()}
    others = {"time", "get", "set", "info", "hello", "client|setinfo"}
    return sum(count for name, count in sent.items() if name not in others) / 100


async def _in_memory() -> Spread:
    store = MemoryLimitStore()
    checks = [LimitCheck((WindowRate("bench:l:per-user", _MANY, 60_000),))]
    samples = await interleaved({"ours": per_call(lambda: store.decide(checks), 20_000)})
    return spread_of([sample * 1e6 for sample in samples["ours"]])
