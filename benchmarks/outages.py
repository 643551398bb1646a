"""Targets 11 and 12: a server that hangs, and a thousand calls at once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from statistics import median

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from benchmarks import product
from benchmarks.harness import Figure, spread_of
from benchmarks.servers import Server
from cachepolicy_runtime import CacheRuntime

_OUTAGES = 5
_BUDGET_MS = 100
_SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}


async def run(server: Server) -> list[Figure]:
    async with product.started(server.url, _BUDGET_MS) as runtime:
        await runtime.admit(dict(_SCOPE))
        hung = [await _outage(server, runtime) for _ in range(_OUTAGES)]
        crowd = [await _crowd(server, runtime) for _ in range(_OUTAGES)]
    first, then, stall, recovery = zip(*hung, strict=True)
    errors, connections = zip(*crowd, strict=True)
    return [
        Figure(
            "11",
            f"Redis hung: first call (budget {_BUDGET_MS} ms)",
            spread_of(first),
            "ms",
            _BUDGET_MS + 20.0,
        ),
        Figure("11", "Redis hung: every later call, p50", spread_of(then), "ms", 1.0),
        Figure("11", "Redis hung: longest stall of the event loop", spread_of(stall), "ms", 20.0),
        Figure("11", "Redis answers again: until decisions come from it", spread_of(recovery), "s", 2.0),
        Figure(
            "12",
            "1,000 decisions at once: errors",
            spread_of(errors),
            "errors",
            0.0,
            peers={"redis-py pool, 1,000 GETs": await _errors_of_a_pool(server)},
        ),
        Figure(
            "12",
            "1,000 decisions at once: connections of the process",
            spread_of(connections),
            "connections",
            4.0,
        ),
    ]


async def _outage(server: Server, runtime: CacheRuntime) -> tuple[float, float, float, float]:
    """Milliseconds of the first call, of a later one, of the longest stall; seconds until Redis is used again."""
    stalls: list[float] = []
    ticker = asyncio.create_task(_tick(stalls))
    with _hung(server):
        first = await _milliseconds(runtime.admit(dict(_SCOPE)))
        while _state_answers(runtime):
            await runtime.admit(dict(_SCOPE))
            await asyncio.sleep(0)
        later = []
        for _ in range(200):
            later.append(await _milliseconds(runtime.admit(dict(_SCOPE))))
            await asyncio.sleep(0)  # such a call never waits, and the stall would be ours
    start = time.perf_counter()
    # Asked as a client would; nothing tells of it.
    while (await runtime.admit(dict(_SCOPE))).degraded:  # noqa: ASYNC110 - see above
        await asyncio.sleep(0.005)
    recovery = time.perf_counter() - start
    ticker.cancel()
    await asyncio.gather(ticker, return_exceptions=True)
    return first, median(later), max(stalls), recovery


def _state_answers(runtime: CacheRuntime) -> bool:
    return bool(runtime.health()["stores"]["state"]["status"] == "up")


@contextmanager
def _hung(server: Server) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def _tick(stalls: list[float]) -> None:
    while True:
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        stalls.append((time.perf_counter() - start) * 1000 - 1)


async def _milliseconds(call: Awaitable[object]) -> float:
    start = time.perf_counter()
    await call
    return (time.perf_counter() - start) * 1000


async def _crowd(server: Server, runtime: CacheRuntime) -> tuple[float, float]:
    decisions = await asyncio.gather(*(runtime.admit(dict(_SCOPE)) for _ in range(1000)))
    with server.admin() as client:
        mine = len(client.client_list()) - 1
    return float(sum(decision.degraded for decision in decisions)), float(mine)


async def _errors_of_a_pool(server: Server) -> float:
    async with redis.asyncio.Redis.from_url(server.url) as client:
        answers = await asyncio.gather(*(client.get("a") for _ in range(1000)), return_exceptions=True)
    return float(sum(isinstance(answer, RedisConnectionError) for answer in answers))
