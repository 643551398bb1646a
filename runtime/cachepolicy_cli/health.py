"""``mc cache health``."""

from __future__ import annotations

import argparse
from typing import Any

from cachepolicy_cli.core import Core
from cachepolicy_cli.failure import Exit
from cachepolicy_cli.options import Verbs, place_of
from cachepolicy_cli.show import Show


def add(verbs: Verbs) -> argparse.ArgumentParser:
    verb = verbs.add("health", "say whether Core works with all that its policy asks for")
    verb.set_defaults(run=run)
    return verb


def run(options: argparse.Namespace) -> Exit:
    show = Show(as_json=options.json)
    with Core(place_of(options)) as core:
        health = core.get("/health")
    up = health.get("status") == "up"
    show.result(health, *_lines(show, health, up))
    return Exit.OK if up else Exit.DEGRADED


def _lines(show: Show, health: dict[str, Any], up: bool) -> list[Any]:
    policy = health.get("policy")
    told = f"policy {policy}, revision {health.get('revision')}" if policy else "no policy yet"
    state = ("up", "bold green") if up else ("degraded", "bold yellow")
    sections = ", ".join(health.get("sections", ())) or "no sections"
    return [
        show.line(state, f": {told} ({sections})"),
        *(show.line(f"  {reason}") for reason in health.get("reasons", ())),
        *(
            show.line(f"  {name} store: {store['status']}")
            for name, store in sorted(health.get("stores", {}).items())
        ),
    ]
