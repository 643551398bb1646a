"""``mc cache stats``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live

from cachepolicy_cli.core import Core
from cachepolicy_cli.failure import Exit
from cachepolicy_cli.options import Verbs, place_of, seconds
from cachepolicy_cli.show import Show, percent, size, spelled, words

_MORE = """
The counts are those of the process that answers, since it started; Prometheus adds them up (GET /cache/metrics)."""

Stats = Mapping[str, Any]
Rates = Mapping[str, float]
CACHES = ("responses", "embeddings")


def add(verbs: Verbs) -> argparse.ArgumentParser:
    verb = verbs.add("stats", "show hits, savings, limits and sessions", _MORE)
    verb.add_argument(
        "--watch",
        nargs="?",
        type=seconds,
        const=2.0,
        metavar="SECONDS",
        help="go on, every 2 seconds or as often as said, until Ctrl-C",
    )
    verb.set_defaults(run=run)
    return verb


def run(options: argparse.Namespace) -> Exit:
    show = Show(as_json=options.json)
    with Core(place_of(options)) as core:
        if options.watch is None:
            stats = core.get("/stats")
            show.result(stats, *view(show, stats))
        else:
            _watch(core, show, options.watch)
    return Exit.OK


def _watch(core: Core, show: Show, every_s: float) -> None:
    try:
        if show.as_json or not show.terminal:
            for stats, rates in _again(core, every_s):
                show.result(stats, *view(show, stats, rates))
        else:
            with Live(console=show.console, auto_refresh=False, screen=True) as live:
                for stats, rates in _again(core, every_s):
                    live.update(Group(*view(show, stats, rates)), refresh=True)
    except KeyboardInterrupt:
        return


def _again(core: Core, every_s: float) -> Iterator[tuple[Stats, Rates | None]]:
    """The figures and what they grew by in a second; behind a Service another process may answer each time."""
    before: tuple[Stats, float] | None = None
    while True:
        stats, now_s = core.get("/stats"), time.monotonic()
        same = before is not None and before[0]["process"] == stats["process"]
        yield stats, rates_of(stats, before[0], now_s - before[1]) if before and same else None
        before = stats, now_s
        time.sleep(every_s)


def rates_of(now: Stats, before: Stats, seconds_between: float) -> Rates:
    """Lookups in a second, for each cache."""
    return {
        name: sum(now[name][count] - before[name][count] for count in ("hits", "misses")) / seconds_between
        for name in CACHES
    }


def view(show: Show, stats: Stats, rates: Rates | None = None) -> list[RenderableType]:
    """The parts for people, in the order of what they ask for first."""
    process = stats["process"]
    head = show.line(
        (str(stats["policy"] or "no policy yet"), "bold"),
        f", revision {stats['revision'] or '-'}; process {process['pid']} of {process['pod']}",
    )
    return [
        head,
        _caches(show, stats, rates),
        *_models(show, stats),
        _savings(show, stats),
        show.beside(*_rest(show, stats)),
    ]


def _caches(show: Show, stats: Stats, rates: Rates | None) -> RenderableType:
    columns = ["cache", "hits", "misses", "ratio", "stored", "not stored", "bypassed", "would be hits"]
    rows = [
        [
            name,
            counts["hits"],
            counts["misses"],
            percent(counts["ratio"]),
            counts["stored"],
            sum(counts["notStored"].values()),
            sum(counts["bypassed"].values()),
            percent(counts["wouldRatio"]),
        ]
        for name in CACHES
        for counts in [stats[name]]
    ]
    if rates is not None:
        columns.append("lookups/s")
        rows = [[*row, f"{rates[name]:,.1f}"] for row, name in zip(rows, CACHES, strict=True)]
    return show.table("caches", columns, rows)


def _models(show: Show, stats: Stats) -> Iterator[RenderableType]:
    rows = [
        (model, provider, cache, tally["hits"], tally["misses"], percent(tally["ratio"]))
        for cache in CACHES
        for provider, counts in stats[cache]["providers"].items()
        for model, tally in counts["models"].items()
    ]
    if rows:
        columns = ("model", "provider", "cache", "hits", "misses", "ratio")
        yield show.table("models", columns, rows, texts=3)


def _savings(show: Show, stats: Stats) -> RenderableType:
    saved = stats["responses"]["savings"]
    cost = "-" if saved["cost"] is None else f"{saved['cost']:,.4f} {saved['currency']}"
    inputs = saved["inputTokens"] + saved["cachedInputTokens"]
    columns = ("saved by hits", "input tokens", "output tokens", "seconds", "cost")
    row = ("responses", inputs, saved["outputTokens"], saved["seconds"], cost)
    return show.table("savings", columns, [row])


def _rest(show: Show, stats: Stats) -> Iterator[RenderableType]:
    limits = stats["limits"]
    rows = [(words(name), number) for name, number in limits.items() if isinstance(number, int)]
    rows += [(f"tokens {name}", number) for name, number in limits["spend"].items()]
    for title, refusals in (("refused by", limits["refusedBy"]), ("would refuse", limits["shadowRefusedBy"])):
        rows += [(f"{title} {name}", number) for name, number in refusals.items()]
    yield show.table("limits", ("limits", "count"), rows)
    sessions = ((words(name), number) for name, number in stats["sessions"].items())
    yield show.table("sessions", ("sessions", "count"), sessions)
    yield show.table("servers", ("server", "state"), _servers(stats), texts=2)


def _servers(stats: Stats) -> Iterator[tuple[str, str]]:
    for name, store in stats["stores"].items():
        told = f"{store['status']} {store.get('reason', '')}".strip()
        yield f"{name} store", f"{told}, {spelled(store['outages'])} outages" if store["outages"] else told
    server = stats["cacheServer"]
    yield "keys", spelled(server["keys"])
    yield "memory", f"{size(server['usedBytes'])} of {size(server['maxBytes'] or None)}"
    yield "evicted", spelled(server["evicted"])
