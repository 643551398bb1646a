"""``python -m benchmarks [GROUP …]``: measure, print tables, write JSON. ``--page`` writes docs/benchmarks.md from it."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import signal
import sys

from benchmarks import page, servers
from benchmarks.harness import CLIENT_CORE, pinned, write

GROUPS = ("ratelimits", "accuracy", "caches", "apps", "usersessions", "clears", "outages", "starts")
#: These do not depend on the server's make.
ONCE = {"starts"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}; all when none is named"
    )
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks.md afterwards")
    chosen = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # the servers and applications are stopped then, too
    unknown = set(chosen.groups) - set(GROUPS)
    if unknown:
        parser.error(f"there is no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    for group in chosen.groups or GROUPS:
        for binary in servers.binaries()[: 1 if group in ONCE else None]:
            with servers.running(binary) as server, pinned(CLIENT_CORE):
                write(
                    group,
                    server.name,
                    asyncio.run(importlib.import_module(f"benchmarks.{group}").run(server)),
                )
    if chosen.page:
        page.write()


if __name__ == "__main__":
    main()
