"""docs/benchmarks.md from the figures in ``benchmarks/results``."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, ROUNDS, number

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PEERS = (
    "limits",
    "throttled-py",
    "slowapi",
    "fastapi-limiter",
    "fastapi-redis-sdk",
    "cashews",
    "aiocache",
    "starsessions",
    "redisvl",
)
OWN = ("redis", "orjson", "fastapi", "uvicorn", "numpy")

_METHOD = """# Benchmarks

How fast the runtime is, measured against other libraries in the same run. `make bench` measures all of it (about four
minutes) and writes this page; `.venv-bench/bin/python -m benchmarks ratelimits` measures one group. No test asserts
any of these figures.

- [Method](#method)
- [Results](#results)
- [What is not met](#what-is-not-met)
- [Other libraries](#other-libraries)
- [Machine and versions](#machine-and-versions)

## Method

A machine drifts, so no figure stands alone: it is a ratio of two measurements of the same round. `F` is a call of
redis-py with its pool, `EVALSHA` of `return 1`; `G` is a `GET` of redis-py with its pool, of the same size of value.
Figures in `µs`, `ms` and `s` are absolute and hold for this machine only.

- The median of {rounds} rounds, after one that warms up; who comes first changes from round to round. In brackets: the
  lowest and the highest round. Target 11 and 12 are medians of 5 outages and 5 crowds, target 13 of {rounds} starts.
- A p50 is the median of calls one after the other; "per second" is 100 tasks at once, one process.
- Our deadline for a call to Redis is 10 s here, except for targets 11 and 12: on a busy machine the 100 ms of the
  default would be missed now and then, and decisions made without Redis would count as fast ones.
- The client has one core, the server another one; over loopback TCP, with a plain configuration and no persistence.
- Target 4 is counted in microseconds of the server's clock: four processes, whose clocks are wrong by -5, -1.5, 1.5 and 5 s,
  take all they can get of one limit.
- Target 7 is real HTTP by uvicorn: the application has a core of its own, the load (32 connections) and Redis share the
  other one.
- Each limiter limits one caller, far below the limit. What libraries do differs: "yes or no only" tells no header data,
  fastapi-redis-sdk counts fixed windows, and fastapi-limiter keeps one log for everybody in its default bucket.
- Hits of cashews and aiocache are given their key; ours derives its key from the request, checks the seal and the purge
  stamp, and fills in `Age` and `Cache-Status`.
"""


def write() -> None:
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    PAGE.write_text(page(found))


def page(results: list[dict[str, Any]]) -> str:
    servers = sorted({item["server"] for item in results}, reverse=True)
    rows = _rows(results)
    parts = [
        _METHOD.format(rounds=ROUNDS),
        f"## Results\n\n{_results(rows, servers)}",
        f"## What is not met\n\n{_missed(rows, servers)}",
        f"## Other libraries\n\n{_others(rows, servers)}",
        f"## Machine and versions\n\n{_machine(servers)}",
    ]
    return "\n".join(parts)


Row = dict[str, dict[str, Any]]


def _rows(results: list[dict[str, Any]]) -> list[Row]:
    """Figures of one kind, by server, in the order of the targets."""
    rows: dict[tuple[str, str], Row] = {}
    for result in results:
        for figure in result["figures"]:
            rows.setdefault((figure["number"], figure["what"]), {})[result["server"]] = figure
    return sorted(rows.values(), key=lambda row: int(_any(row)["number"]))


def _any(row: Row) -> dict[str, Any]:
    return next(iter(row.values()))


def _results(rows: list[Row], servers: list[str]) -> str:
    lines = [
        f"| target | what | to reach | {' | '.join(servers)} | |",
        "|---|---|---|" + "---|" * len(servers) + "---|",
    ]
    for row in rows:
        one = _any(row)
        sign = "≥" if one["at_least"] else "≤"
        cells = [_cell(row[server]) if server in row else "" for server in servers]
        verdict = "met" if all(item["met"] for item in row.values()) else "**not met**"
        target = f"{sign} {one['target']:g} {_unit(one)}".strip()
        lines.append(f"| {one['number']} | {one['what']} | {target} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def _unit(figure: dict[str, Any]) -> str:
    return str(figure["unit"])


def _cell(figure: dict[str, Any]) -> str:
    spread = figure["spread"]
    low, high = number(spread["low"]), number(spread["high"])
    around = "" if low == high else f" ({low}–{high})"
    return f"{number(spread['value'])} {_unit(figure)}{around}"


def _missed(rows: list[Row], servers: list[str]) -> str:
    lines = []
    for row in rows:
        missed = [server for server in servers if server in row and not row[server]["met"]]
        if missed:
            one = _any(row)
            values = ", ".join(f"{number(row[server]['spread']['value'])} on {server}" for server in missed)
            lines.append(
                f"- Target {one['number']}, {one['what']}: {one['target']:g} {_unit(one)} asked,\n  {values}."
            )
    return "\n".join(lines or ["Everything that is measured here is met."]) + "\n"


def _others(rows: list[Row], servers: list[str]) -> str:
    lines = [f"| what | library | {' | '.join(servers)} |", "|---|---|" + "---|" * len(servers)]
    for row in rows:
        names = {name: None for figure in row.values() for name in figure["peers"]}
        for name in names:
            cells = [
                f"{number(row[server]['peers'][name])} {_unit(row[server])}" if server in row else ""
                for server in servers
            ]
            lines.append(f"| {_any(row)['what']} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _machine(servers: list[str]) -> str:
    lines = [
        "| | |",
        "|---|---|",
        f"| cores | {os.cpu_count()} |",
        f"| Python | {platform.python_version()} |",
        f"| servers | {', '.join(servers)} |",
        *(f"| {name} | {version(name)} |" for name in (*OWN, *PEERS)),
    ]
    return "\n".join(lines) + "\n"
