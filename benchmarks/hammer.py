"""One of several processes that take all they can get of one limit: ``python -m benchmarks.hammer`` and the options.

Its clocks are wrong by as much as it is told. It prints when it was admitted, in microseconds of the server's clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence

from cachepolicy_runtime.store.endpoint import fixed, parse_url
from cachepolicy_runtime.store.port import LimitCheck, WindowRate
from cachepolicy_runtime.store.redis import RedisTransport, TransportSettings
from cachepolicy_runtime.store.redis_limits import RedisLimitStore

#: Questions at once, so that many decisions fall on the edge of a window.
_AT_ONCE = 20
_PAUSE_S = 0.002


def arguments(url: str, *, skew_s: float, seconds: float, limit: int, window_ms: int, log: bool) -> list[str]:
    """The command line of one hammer."""
    options = {"skew": skew_s, "seconds": seconds, "limit": limit, "window": window_ms, "log": int(log)}
    return ["-m", "benchmarks.hammer", url, *(f"--{name}={value}" for name, value in options.items())]


def most_in_a_window(times_us: Iterable[int], window_ms: int) -> int:
    """The most that was admitted in any window of this length, wherever it begins (its end is not part of it)."""
    times, oldest, most = sorted(times_us), 0, 0
    for newest, at in enumerate(times):
        while times[oldest] <= at - window_ms * 1000:
            oldest += 1
        most = max(most, newest - oldest + 1)
    return most


def _skewed(clock: Callable[[], float], by_s: float) -> Callable[[], float]:
    return lambda: clock() + by_s


async def _hammer(options: argparse.Namespace) -> Sequence[int]:
    address, credentials = parse_url(options.url)
    transport = RedisTransport("state", address, fixed(credentials), TransportSettings(10.0))
    store = RedisLimitStore(transport)
    rate = WindowRate("bench/core:hammered", options.limit, options.window, bool(options.log))
    checks, admitted = [LimitCheck((rate,))], []
    until = time.monotonic() + options.seconds
    while time.monotonic() < until:
        answers = await asyncio.gather(*(store.admit(checks) for _ in range(_AT_ONCE)))
        admitted += [answer.at_us for answer in answers if answer.admitted]
        await asyncio.sleep(_PAUSE_S)
    await transport.aclose()
    return admitted


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hammer", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--skew", type=float, required=True, help="seconds that its clocks are ahead")
    parser.add_argument("--seconds", type=float, required=True)
    for name in ("limit", "window", "log"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    time.time = _skewed(time.time, options.skew)
    time.monotonic = _skewed(time.monotonic, options.skew)
    print(json.dumps(asyncio.run(_hammer(options))))


if __name__ == "__main__":
    main()
