"""``mc cache warm FILE``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cachepolicy_cli.core import Place
from cachepolicy_cli.explain import CHAT
from cachepolicy_cli.failure import Exit, Failure
from cachepolicy_cli.options import Verbs, place_of
from cachepolicy_cli.show import Show
from cachepolicy_cli.warm_file import State, items
from cachepolicy_cli.warm_run import Caps, Run, Totals

TIMEOUT_S = 120.0
_MORE = """
FILE has a request in each line: a JSON body, or an object with url and body as OpenAI's Batch API takes it. They are
sent to Core as its caller would send them, so its limits apply, and what is cached already costs nobody anything. An
interrupted run goes on where it was; a run that is complete begins anew the next time."""


def add(verbs: Verbs) -> argparse.ArgumentParser:
    verb = verbs.add("warm", "send requests through Core, so that their answers are cached", _MORE)
    verb.add_argument("file", type=Path, metavar="FILE", help="JSON lines")
    verb.add_argument("--path", default=CHAT, help="where bodies are sent that do not say it (%(default)s)")
    verb.add_argument(
        "--concurrency",
        type=_count(64),
        default=4,
        metavar="N",
        help="requests at once, up to 64 (%(default)s)",
    )
    verb.add_argument(
        "--max-requests", type=_count(10**9), metavar="N", help="stop after so many requests, cached or not"
    )
    verb.add_argument(
        "--max-tokens",
        type=_count(10**12),
        metavar="N",
        help="stop once answers that were not cached have cost so many; those under way still end",
    )
    verb.add_argument(
        "--state", type=Path, metavar="FILE", help="what is done (default: FILE.mc-state beside it)"
    )
    verb.add_argument("--restart", action="store_true", help="forget what is done")
    verb.set_defaults(run=run)
    return verb


def run(options: argparse.Namespace) -> Exit:
    place, show = place_of(options, TIMEOUT_S), Show(as_json=options.json)
    total = sum(
        1 for _ in items(options.file, place.url, options.path)
    )  # wrong lines are found before any is sent
    file = options.state or options.file.with_name(f"{options.file.name}.mc-state")
    headers, state = place.caller(), State(file, anew=options.restart)
    totals, ended = Totals(), Exit.FAILED
    try:
        with _progress(total) as moved:
            totals, failure = asyncio.run(_run(options, place, headers, state, moved))
        if failure is not None:
            raise failure
        ended = Exit.CAPPED if totals.capped else Exit.FAILED if totals.failed else Exit.OK
    finally:
        state.close(complete=ended is Exit.OK)
        show.result(totals.as_dict(), *_lines(show, totals))
    return ended


async def _run(
    options: argparse.Namespace,
    place: Place,
    headers: dict[str, str],
    state: State,
    moved: Callable[[Totals], None],
) -> tuple[Totals, Failure | KeyboardInterrupt | None]:
    """The totals in any case, and what ended the run before its end."""
    async with httpx.AsyncClient(
        base_url=place.url,
        headers=headers,
        timeout=place.timeout_s,
        verify=place.tls if place.url.startswith("https:") else True,
        limits=httpx.Limits(max_connections=options.concurrency),
    ) as http:
        caps = Caps(options.max_requests, options.max_tokens)
        warming = Run(http, caps, state.done, state.add, moved)
        try:
            await warming.all(items(options.file, place.url, options.path), options.concurrency)
        except Failure as failure:
            return warming.totals, failure
        except asyncio.CancelledError:  # Ctrl-C
            return warming.totals, KeyboardInterrupt()
        return warming.totals, None


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Totals], None]]:
    """A bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda totals: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)

        def moved(totals: Totals) -> None:
            told = f"{totals.cached} cached, {totals.stored} stored, {totals.failed} failed, {totals.tokens} tokens"
            bar.update(task, completed=totals.sent + totals.skipped, description=told)

        yield moved


def _lines(show: Show, totals: Totals) -> list[Any]:
    rows = [
        ("was cached", totals.cached),
        ("stored", totals.stored),
        *((f"not stored: {why}", number) for why, number in totals.not_stored.items()),
        ("failed", totals.failed),
        ("skipped: done before, or twice in the file", totals.skipped),
        ("tokens", totals.tokens),
    ]
    lines = [show.table("warmed", ("requests", "count"), rows)]
    lines += [show.line((failure, "red")) for failure in totals.failures]
    if totals.capped:
        lines.append(show.line(f"Stopped at {totals.capped}; the same command goes on."))
    return lines


def _count(highest: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= highest):
            raise argparse.ArgumentTypeError(f"must be a number from 1 to {highest}, not {text[:20]!r}")
        return int(text)

    return count
