"""Target 4: the most that four processes with wrong clocks get out of one limit in any true window."""

from __future__ import annotations

import asyncio
import json
import sys

from benchmarks.hammer import arguments, most_in_a_window
from benchmarks.harness import ROUNDS, Figure, spread_of
from benchmarks.servers import Server

_LIMIT, _WINDOW_MS, _SECONDS = 100, 300, 1.0
_SKEWS_S = (-5.0, -1.5, 1.5, 5.0)


async def run(server: Server) -> list[Figure]:
    return [
        Figure(
            "4",
            f"most admitted in any window over the limit, {name}",
            spread_of([await _round(server, log=log) for _ in range(ROUNDS)]),
            "×",
            1.0,
        )
        for name, log in (("sub-buckets", False), ("log", True))
    ]


async def _round(server: Server, *, log: bool) -> float:
    with server.admin() as client:
        client.flushall()
    each = await asyncio.gather(*(_hammer(server, skew, log=log) for skew in _SKEWS_S))
    return most_in_a_window([at for times in each for at in times], _WINDOW_MS) / _LIMIT


async def _hammer(server: Server, skew_s: float, *, log: bool) -> list[int]:
    command = arguments(
        server.url, skew_s=skew_s, seconds=_SECONDS, limit=_LIMIT, window_ms=_WINDOW_MS, log=log
    )
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError("a hammer failed")
    times: list[int] = json.loads(output)
    return times
