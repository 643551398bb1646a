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
from cachepolicy_cli.show import Show, percent, size, spelled

_MORE = """
The counts are those of the process that answers, since it started; Prometheus adds them up (GET /cache/metrics)."""

Stats = Mapping[str, Any]


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
            for stats in _again(core, every_s):
                show.result(stats, *view(show, stats))
        else:
            with Live(console=show.console, auto_refresh=False, screen=True) as live:
                for stats in _again(core, every_s):
                    live.update(Group(*view(show, stats)), refresh=True)
    except KeyboardInterrupt:
        return


def _again(core: Core, every_s: float) -> Iterator[Stats]:
    while True:
        yield core.get("/stats")
        time.sleep(every_s)


def view(show: Show, stats: Stats) -> list[RenderableType]:
    """The parts for people, in the order of what they ask for first."""
    process = stats["process"]
    head = show.line(
        (str(stats["policy"] or "no policy yet"), "bold"),
        f", revision {stats['revision'] or '-'}; process {process['pid']} of {process['pod']}",
    )
    return [head, _caches(show, stats), *_models(show, stats), _savings(show, stats), *_rest(show, stats)]


def _caches(show: Show, stats: Stats) -> RenderableType:
    columns = ("cache", "hits", "misses", "ratio", "stored", "not stored", "bypassed", "would be hits")
    rows = (
        (
            name,
            counts["hits"],
            counts["misses"],
            percent(counts["ratio"]),
            counts["stored"],
            sum(counts.get("notStored", {}).values()),
            sum(counts.get("bypassed", {}).values()),
            percent(counts.get("wouldRatio")),
        )
        for name in ("responses", "embeddings")
        for counts in [stats[name]]
    )
    return show.table("caches", columns, rows)


def _models(show: Show, stats: Stats) -> Iterator[RenderableType]:
    rows = [
        (model or "all", provider, cache, tally["hits"], tally["misses"], percent(tally["ratio"]))
        for cache in ("responses", "embeddings")
        for provider, counts in stats[cache]["providers"].items()
        for model, tally in (counts.get("models") or {"": counts}).items()
    ]
    if rows:
        yield show.table("models", ("model", "provider", "cache", "hits", "misses", "ratio"), rows)


def _savings(show: Show, stats: Stats) -> RenderableType:
    saved = stats["responses"]["savings"]
    cost = "-" if saved["cost"] is None else f"{saved['cost']:,.2f} {saved['currency']}"
    columns = ("saved by hits", "input tokens", "output tokens", "seconds", "cost")
    inputs = saved["inputTokens"] + saved["cachedInputTokens"]
    return show.table(
        "savings", columns, [("responses", inputs, saved["outputTokens"], saved["seconds"], cost)]
    )


def _rest(show: Show, stats: Stats) -> Iterator[RenderableType]:
    limits = stats["limits"]
    rows = [(name, number) for name, number in limits.items() if isinstance(number, int)]
    for title, refusals in (
        ("refused by", limits["refusedBy"]),
        ("would refuse", limits.get("shadowRefusedBy", {})),
    ):
        rows += [(f"{title} {name}", number) for name, number in refusals.items()]
    yield show.table("limits", ("limits", "count"), rows)
    yield show.table("sessions", ("sessions", "count"), stats["sessions"].items())
    yield show.table("servers", ("server", "state"), _servers(stats))


def _servers(stats: Stats) -> Iterator[tuple[str, str]]:
    for name, store in stats["stores"].items():
        yield f"{name} store", f"{store['status']} {store.get('reason', '')}".strip()
    server = stats["cacheServer"]
    yield "cache: keys", spelled(server["keys"])
    yield "cache: memory", f"{size(server['usedBytes'])} of {size(server['maxBytes'] or None)}"
    yield "cache: evicted", spelled(server["evicted"])
