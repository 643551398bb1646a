"""``mc``: what can be asked on the command line, and how the program ends.

======================  ===================================================================================
``mc cache stats``      hits, savings, limits and sessions of the process that answers
``mc cache health``     up or degraded, and why
``mc cache clear``      empties a scope of the caches in all replicas
``mc cache warm``       sends requests from a file through Core, so that their answers are cached
``mc cache explain``    would this request be a hit, and why not
``mc completion``       completion for a shell
======================  ===================================================================================
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from cachepolicy_cli import clear, completion, explain, health, stats, warm
from cachepolicy_cli.failure import Exit, Failure
from cachepolicy_cli.options import EXIT_CODES, Verbs, add_global


def main(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    options = parser(environ).parse_args(arguments)
    try:
        return int(options.run(options))
    except Failure as failure:
        print(f"mc: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has left
        sys.stderr.close()
        return Exit.OK


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    made = _parser("mc", "The caches of a running Core.")
    add_global(made, environ)
    areas = made.add_subparsers(title="areas", metavar="AREA", required=True)
    cache = areas.add_parser("cache", help="look at the caches, empty and fill them", epilog=EXIT_CODES)
    cache.formatter_class = argparse.RawDescriptionHelpFormatter
    verbs = cache.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (stats, health, clear, warm, explain):
        verb = module.add(Verbs(verbs))
        add_global(verb, None)
    shell = areas.add_parser("completion", help="print completion for a shell")
    completion.add(shell, made)
    return made


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
