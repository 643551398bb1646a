"""Options that every verb takes: where Core is, what opens it, and how to show what it says."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cachepolicy_cli.core import Place

DEFAULT_URL = "http://127.0.0.1:8080"
EXIT_CODES = """\
exit codes:
  0  done
  1  Core cannot be reached or refuses, or some requests failed
  2  wrong use, or a file that cannot be read
  3  Core is degraded (health)
  4  stopped at a cap before the end of the file (warm)
"""


class Verbs:
    """Adds a verb with the help that all have in common."""

    def __init__(self, verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        self._verbs = verbs

    def add(self, name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        return self._verbs.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.{more}",
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )


def add_global(made: argparse.ArgumentParser, environ: Mapping[str, str] | None) -> None:
    """Options that stand before or after the verb; only the first parser has the defaults."""

    def default(variable: str, otherwise: Any = None) -> Any:
        return argparse.SUPPRESS if environ is None else environ.get(variable) or otherwise

    group = made.add_argument_group("where Core is and how to show what it says")
    group.add_argument(
        "--url",
        type=_url,
        default=default("MC_URL", DEFAULT_URL),
        help=f"base URL of Core (MC_URL; {DEFAULT_URL})",
    )
    group.add_argument(
        "--cache-path",
        metavar="PATH",
        type=_path,
        default=default("MC_CACHE_PATH", "/cache"),
        help="where Core mounts the endpoints (MC_CACHE_PATH; /cache)",
    )
    for option, variable, what in (
        ("--token-file", "MC_TOKEN_FILE", "the admin token (clear, explain)"),
        ("--api-key-file", "MC_API_KEY_FILE", "the API key of a caller of Core (warm)"),
        ("--ca-file", "MC_CA_FILE", "certificates to trust besides the system's"),
    ):
        group.add_argument(
            option,
            type=Path,
            metavar="FILE",
            default=default(variable),
            help=f"file with {what} ({variable})",
        )
    group.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        default=argparse.SUPPRESS if environ is None else None,
        help="longest time without an answer (10; warm: 120)",
    )
    group.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS if environ is None else False,
        help="print JSON, one line each in a pipe",
    )


def place_of(options: argparse.Namespace, timeout_s: float = 10.0) -> Place:
    return Place(
        url=options.url,
        cache_path=options.cache_path,
        token_file=options.token_file,
        api_key_file=options.api_key_file,
        ca_file=options.ca_file,
        timeout_s=options.timeout or timeout_s,
    )


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")) or len(text) < 9:
        raise argparse.ArgumentTypeError("must be a URL such as http://127.0.0.1:8080")
    if "@" in text:
        raise argparse.ArgumentTypeError("must not hold a user or a password: use --api-key-file")
    return text.rstrip("/")


def _path(text: str) -> str:
    return "/" + text.strip("/") if text.strip("/") else ""


def seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be a number of seconds up to 3600, not {text[:20]!r}")
    return seconds
