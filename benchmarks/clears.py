"""Target 14: emptying one tenant's cache that has a million entries, next to what deletes them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import cast

import redis.asyncio

from benchmarks import product
from benchmarks.harness import ROUNDS, Figure, spread_of
from benchmarks.servers import Server
from cachepolicy.keys import KeyLayout, tenant_scope
from cachepolicy.stamps import Scope
from cachepolicy_runtime import CacheRuntime
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.keys import UpstreamRequest

ENTRIES = 1_000_000
_AT_ONCE = 10_000
#: Entries as they are named, with a value of 100 bytes: what is in it does not matter to anybody here.
_FILL = """
for number = ARGV[2], ARGV[3] do
  redis.call('SET', ARGV[1] .. string.format('%064x', number), string.rep('x', 100), 'PX', 3600000)
end
"""
_KEYS = "return #redis.call('KEYS', ARGV[1] .. '*')"
_ANSWER = (
    b'{"choices":[{"finish_reason":"stop","message":{"content":"Hello."}}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":2}}'
)
_REQUEST = UpstreamRequest("https://api.openai.com/v1/chat/completions", {"model": "m", "messages": []})


async def run(server: Server) -> list[Figure]:
    place = KeyLayout("bench/core").response(tenant_scope(product.WHO.tenant), "openai", "")
    async with redis.asyncio.Redis.from_url(server.url) as client, product.started(server.url) as runtime:
        for start in range(0, ENTRIES, _AT_ONCE):
            await _script(client, _FILL, place, start, start + _AT_ONCE - 1)
        assert await client.dbsize() >= ENTRIES
        clears, longest = zip(*[await _round(client, runtime) for _ in range(ROUNDS)], strict=True)
        keys = await _milliseconds(lambda: _script(client, _KEYS, place))
        flush = await _milliseconds(lambda: cast(Awaitable[object], client.flushall()))
    return [
        Figure(
            "14",
            "one tenant's 1,000,000 entries emptied",
            spread_of(clears),
            "ms",
            5.0,
            peers={"KEYS, nothing deleted yet": keys, "FLUSHALL, sessions and limits lost": flush},
        ),
        Figure("14", "longest command of the server meanwhile", spread_of(longest), "ms", 1.0),
    ]


async def _round(client: redis.asyncio.Redis, runtime: CacheRuntime) -> tuple[float, float]:
    """Milliseconds of a clear, and of the longest command that the server carried out meanwhile."""
    await client.config_set("slowlog-max-len", 10_000)
    await client.config_set("slowlog-log-slower-than", 0)
    await client.slowlog_reset()
    taken = await _clear(runtime)
    await client.config_set("slowlog-log-slower-than", -1)
    return taken, max(float(entry["duration"]) for entry in await client.slowlog_get(10_000)) / 1000


async def _clear(runtime: CacheRuntime) -> float:
    """Milliseconds, until what was a hit is a miss."""
    await _ask(runtime)
    assert await _ask(runtime)
    taken = await _milliseconds(lambda: runtime.control.clear([Scope(tenant=product.WHO.tenant).stamp_field]))
    assert not await _ask(runtime)
    return taken


async def _ask(runtime: CacheRuntime) -> bool:
    """Whether the answer came from the cache."""

    async def provider() -> Answer:
        return Answer(200, _ANSWER, {"content-type": "application/json"})

    outcome = await runtime.responses.get_or_call(_REQUEST, provider, provider="openai", identity=product.WHO)
    return outcome.hit


async def _script(client: redis.asyncio.Redis, text: str, *arguments: str | int) -> None:
    await cast(Awaitable[object], client.eval(text, 0, *map(str, arguments)))


async def _milliseconds(call: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await call()
    return (time.perf_counter() - start) * 1000
