"""``mc cache clear``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cachepolicy_cli.core import Core
from cachepolicy_cli.failure import Exit, Failure
from cachepolicy_cli.options import Verbs, place_of
from cachepolicy_cli.show import Show

_MORE = """
Parts that are given together mean what they have in common. It is complete within a second on all replicas, and it
deletes nothing: what was stored before is not found any more. Sessions and limits stay."""
_PARTS = ("kind", "tenant", "provider", "model", "tag")


def add(verbs: Verbs) -> argparse.ArgumentParser:
    verb = verbs.add("clear", "empty the caches, or a scope of them", _MORE)
    verb.add_argument("--all", action="store_true", help="everything in both caches")
    verb.add_argument("--kind", choices=("responses", "embeddings"), help="one of the two caches")
    verb.add_argument("--tenant", metavar="NAME", help="everything of a tenant")
    verb.add_argument("--provider", metavar="NAME", help="what came from a provider")
    verb.add_argument("--model", metavar="NAME", help="what came from a model")
    verb.add_argument("--tag", metavar="TAG", help="answers that carry a tag")
    verb.add_argument("--yes", action="store_true", help="do not ask; needed where nobody can answer")
    verb.set_defaults(run=run)
    return verb


def run(options: argparse.Namespace) -> Exit:
    scope = _scope(options)
    show = Show(as_json=options.json)
    place = place_of(options)
    place.admin()  # whoever cannot clear is not asked
    if not options.yes and not _agreed(scope, place.url):
        raise Failure("Nothing was cleared.")
    with Core(place) as core:
        cleared = core.post("/clear", scope)
    show.result(cleared, show.line(f"Cleared: {_named(scope)}."))
    return Exit.OK


def _scope(options: argparse.Namespace) -> dict[str, Any]:
    scope = {part: value for part in _PARTS if (value := getattr(options, part))}
    if bool(scope) == options.all:
        raise Failure(
            "Say --all, or at least one of --kind, --tenant, --provider, --model and --tag.", Exit.USAGE
        )
    return scope or {"all": True}


def _agreed(scope: dict[str, Any], url: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Failure("Nobody can be asked here: say --yes.", Exit.USAGE)
    print(f"Clear {_named(scope)} at {url}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _named(scope: dict[str, Any]) -> str:
    if "all" in scope:
        return "everything in both caches"
    return ", ".join(f"{part} {value}" for part, value in scope.items())
