"""Rounds, pinning, statistics and tables. A machine drifts, so a figure is a ratio of two measurements of one round."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

#: Measured rounds; one more before them warms up and is not counted.
ROUNDS = 5
RESULTS = Path(__file__).with_name("results")

#: One measurement of one subject.
Measure = Callable[[], Awaitable[float]]
Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, and the lowest and highest of them."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table.

    Attributes:
        number: of the target that it belongs to.
        what: what was measured.
        spread: the measured value.
        unit: ``F``, ``G``, ``×`` and other ratios, or ``µs``, ``ms``, ``s``.
        target: the value to reach; at most that, or at least where ``at_least``.
        peers: the same of other libraries, in the same rounds and unit.
    """

    number: str
    what: str
    spread: Spread
    unit: str
    target: float
    at_least: bool = False
    peers: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return self.spread.value >= self.target if self.at_least else self.spread.value <= self.target

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def cores() -> tuple[int, int]:
    """The core of the client and that of the server; one and the same where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


#: Taken before anything is pinned.
CLIENT_CORE, SERVER_CORE = cores()


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """This process, and every process that it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def spread_of(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def ratios(samples: Sequence[float], floor: Sequence[float]) -> Spread:
    """Each sample over the floor of the same round."""
    return spread_of([sample / base for sample, base in zip(samples, floor, strict=True)])


def peers_of(rounds: Mapping[str, Sequence[float]], floor: str, ours: str) -> dict[str, float]:
    """The median ratio of every subject that is neither the floor nor ours."""
    return {
        name: ratios(samples, rounds[floor]).value
        for name, samples in rounds.items()
        if name not in (floor, ours)
    }


async def interleaved(measures: Mapping[str, Measure], count: int = ROUNDS) -> dict[str, list[float]]:
    """One measurement of each subject in every round; who comes first changes from round to round."""
    names = list(measures)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(count + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            value = await measures[name]()
            if turn > 0:
                samples[name].append(value)
    return samples


def latency(call: Call, calls: int) -> Measure:
    """Median seconds of one call, one after the other."""

    async def measure() -> float:
        durations = []
        for _ in range(calls):
            start = time.perf_counter_ns()
            await call()
            durations.append(time.perf_counter_ns() - start)
        return median(durations) / 1e9

    return measure


def throughput(call: Call, calls: int, tasks: int = 100) -> Measure:
    """Calls per second of concurrent tasks."""

    async def one() -> None:
        for _ in range(calls // tasks):
            await call()

    async def measure() -> float:
        start = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(tasks)))
        return calls // tasks * tasks / (time.perf_counter() - start)

    return measure


def per_call(call: Callable[[], object], calls: int) -> Measure:
    """Mean seconds of a call that is too short to be timed alone."""

    async def measure() -> float:
        start = time.perf_counter_ns()
        for _ in range(calls):
            call()
        return (time.perf_counter_ns() - start) / calls / 1e9

    return measure


def mean_latency(call: Call, calls: int) -> Measure:
    """Mean seconds of an asynchronous call that is too short to be timed alone."""

    async def measure() -> float:
        start = time.perf_counter_ns()
        for _ in range(calls):
            await call()
        return (time.perf_counter_ns() - start) / calls / 1e9

    return measure


def number(value: float) -> str:
    """Three digits, without an exponent."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def table(title: str, figures: Sequence[Figure]) -> str:
    """For a terminal."""
    lines = [title]
    for item in figures:
        sign, verdict = "≥" if item.at_least else "≤", "met" if item.met else "NOT MET"
        unit = "" if item.unit == "×" else f" {item.unit}"
        measured = f"{number(item.spread.value)}{unit} ({number(item.spread.low)}–{number(item.spread.high)})"
        lines.append(f"  {item.number:>3}  {item.what:<58} {measured:<28} {sign} {item.target:g}  {verdict}")
        lines += [f"{'':10}{name}: {number(value)}{unit}" for name, value in item.peers.items()]
    return "\n".join(lines)


def write(group: str, server: str, figures: Sequence[Figure]) -> None:
    """Print the table and keep the figures as JSON."""
    print(table(f"{group}, {server}", figures), flush=True)
    RESULTS.mkdir(exist_ok=True)
    content = {"group": group, "server": server, "figures": [item.as_dict() for item in figures]}
    path = RESULTS / f"{group}-{server.split(maxsplit=1)[0].lower()}.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
