"""``mc cache explain FILE``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cachepolicy_cli.core import Core, read_json
from cachepolicy_cli.failure import Exit, Failure
from cachepolicy_cli.options import Verbs, place_of
from cachepolicy_cli.show import Show, spelled

CHAT = "/v1/chat/completions"
_MORE = """
FILE holds a request as it is sent to Core: its JSON body, or an object with path, body and, where wanted, tenant, user
and headers. Nothing is sent to a provider. The nearest request is one that the process which answers saw lately."""


def add(verbs: Verbs) -> argparse.ArgumentParser:
    verb = verbs.add("explain", "say whether a request would be a hit, and why not", _MORE)
    verb.add_argument("file", metavar="FILE", help="JSON; - is standard input")
    verb.add_argument("--tenant", metavar="NAME", help="for whom")
    verb.add_argument("--user", metavar="NAME", help="for whom, where answers are kept by user")
    verb.add_argument("--path", metavar="PATH", help=f"where Core is asked ({CHAT})")
    verb.add_argument("--provider", metavar="NAME", help="with --upstream: the provider's name in the policy")
    verb.add_argument("--upstream", metavar="URL", help="instead of --path: where the provider is asked")
    verb.set_defaults(run=run)
    return verb


def run(options: argparse.Namespace) -> Exit:
    asked = _request(read_json(options.file, sys.stdin), options)
    show = Show(as_json=options.json)
    with Core(place_of(options)) as core:
        told = core.post("/explain", asked)
    show.result(told, *_lines(show, told))
    return Exit.OK


def _request(content: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What the endpoint takes; options count more than the file."""
    whole = isinstance(content.get("body"), dict)
    asked: dict[str, Any] = dict(content) if whole else {"body": content}
    given = {
        "tenant": options.tenant,
        "user": options.user,
        "path": options.path,
        "url": options.upstream,
        "provider": options.provider,
    }
    asked |= {name: value for name, value in given.items() if value is not None}
    if options.upstream is not None:
        asked.pop("path", None)
    elif "url" not in asked:
        asked.setdefault("path", CHAT)
    if "tenant" not in asked:
        raise Failure("For which tenant? Say --tenant, or tenant in the file.", Exit.USAGE)
    return asked


def _lines(show: Show, told: dict[str, Any]) -> list[Any]:
    style = {"hit": "bold green", "miss": "bold yellow"}.get(told["result"], "bold")
    lines = [show.line((told["result"], style), f": {told['why']}")]
    nearest = told.get("nearest")
    if nearest:
        lines.append(
            show.line(
                f"Nearest request: {spelled(nearest['ageSeconds'])} s ago, {spelled(nearest['same'])} fields the same, "
                f"{spelled(nearest['different'])} different."
            )
        )
        if nearest["differs"]:
            lines.append(show.table("field", ("field", "is"), nearest["differs"].items(), texts=2))
    return lines
