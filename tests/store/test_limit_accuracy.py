"""Four processes with wrong clocks take all they can get: no true window ever holds more than its limit."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from benchmarks.hammer import arguments, most_in_a_window
from tests.servers import Server

ROOT = Path(__file__).parents[2]
LIMIT, WINDOW_MS, SECONDS = 40, 400, 1.5


async def hammer(url: str, skew_s: float, *, log: bool) -> list[int]:
    command = arguments(url, skew_s=skew_s, seconds=SECONDS, limit=LIMIT, window_ms=WINDOW_MS, log=log)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    times: list[int] = json.loads(output)
    return times


@pytest.mark.parametrize("log", [False, True], ids=["sub-buckets", "log"])
async def test_no_true_window_holds_more_than_the_limit(valkey: Server, log: bool) -> None:
    valkey.flush()
    each = await asyncio.gather(*(hammer(valkey.url, skew, log=log) for skew in (-5, -1.5, 1.5, 5)))
    times = [at for found in each for at in found]
    assert most_in_a_window(times, WINDOW_MS) == LIMIT
    assert len(times) > 2 * LIMIT  # room came back
    if log:
        # Without losing any: what was used is back exactly one window later.
        span_ms = (max(times) - min(times)) / 1000
        assert len(times) > LIMIT * (span_ms // WINDOW_MS)


def test_the_count_finds_a_burst_at_the_edge_of_two_windows() -> None:
    burst = [*range(900_000, 1_000_000, 10_000), *range(1_000_000, 1_100_000, 10_000)]
    assert most_in_a_window(burst, 1000) == 20
    assert most_in_a_window([0, 1_000_000], 1000) == 1
    assert most_in_a_window([0, 999_999], 1000) == 2
