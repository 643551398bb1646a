"""``make demo``: the whole of it on this machine in under a minute, told and asserted step by step.

    python -m cachepolicy_operator.demo

Exit code 0 when every step was as told, 1 otherwise. Nothing stays: no process (which is looked at), no file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from cachepolicy_operator.embedded import EmbeddedError
from cachepolicy_operator.local import LocalBackend
from cachepolicy_operator.policyfile import read_policies
from cachepolicy_operator.processes import ProcessError
from cachepolicy_operator.stack import Stack, StackOptions

STANDIN_DELAY_MS: Final = 800
_WIDTH: Final = 100


class Printer:
    """Plain text; bold and colours only for a terminal."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty()

    def heading(self, number: int, title: str, what: str) -> None:
        print(f"\n{self._paint(f'{number}. {title}', '1')}: {what}", flush=True)

    def line(self, text: str) -> None:
        for part in text.splitlines():
            print(f"   {part}", flush=True)

    def failed(self, title: str, reason: object) -> None:
        sys.stdout.flush()
        print(f"\n{self._paint('FAILED', '1;31')} at {title!r}: {reason}", file=sys.stderr, flush=True)

    def summary(self, results: Sequence[tuple[str, str]], total: int, seconds: float) -> None:
        width = max(len(title) for title, _ in results) + 2
        print(f"\n{self._paint('Summary', '1')}")
        for number, (title, result) in enumerate(results, 1):
            print(f"   {number}  {title:<{width}}{self._paint('ok', '32')}  {result}")
        print(
            f"\n{len(results)} of {total} steps as told, in {seconds:.0f} s. No process is left.", flush=True
        )

    def _paint(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colours else text


def main() -> int:
    try:
        import httpx  # noqa: F401 - the story needs it: said before anything is started
    except ModuleNotFoundError:
        print(
            "the demo needs more packages: pip install 'cachepolicy[operator,gateway,embedded]'",
            file=sys.stderr,
        )
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave in order then as well
    try:
        # Short, so that the sockets fit into it.
        with tempfile.TemporaryDirectory(prefix="cachepolicy-demo-") as folder:
            return asyncio.run(_run(Path(folder)))
    except (EmbeddedError, ProcessError) as error:
        print(f"the demo could not start: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def _run(folder: Path) -> int:
    import httpx

    from cachepolicy_operator.demo_story import CHAPTERS, PEOPLE, Scene, StoryError

    printer, began = Printer(), time.perf_counter()
    file = folder / "policy.yaml"
    file.write_text(files("cachepolicy_operator").joinpath("demo-policy.yaml").read_text())
    manifest = read_policies(file.read_text()).policies[0]
    options = StackOptions(people=PEOPLE, standin_arguments=("--delay", f"{STANDIN_DELAY_MS}ms"))
    results: list[tuple[str, str]] = []
    print("Redis (state and cache), two replicas of Core, and a stand-in provider that thinks for 0.8 s:")
    async with (
        Stack(LocalBackend(folder / "data", printer.line), options) as stack,
        httpx.AsyncClient(timeout=20, limits=httpx.Limits(max_connections=100)) as http,
    ):
        await stack.start(manifest)
        for replica in stack.replicas:
            printer.line(f"{replica.name} at {replica.url}")
        scene = Scene(stack, http, file, manifest, printer.line)
        for number, (title, chapter) in enumerate(CHAPTERS, 1):
            printer.heading(number, title, (chapter.__doc__ or "").strip())
            try:
                results.append((title, await chapter(scene)))
            except (StoryError, httpx.HTTPError, KeyError, ValueError) as error:
                printer.failed(
                    title, error if isinstance(error, StoryError) else f"{type(error).__name__}: {error}"
                )
                for replica in stack.replicas:
                    printer.line(f"last words of {replica.name}:\n{replica.last_words()}")
                return 1
        servers = [server.pid for server in stack.backend.servers.values()]
    if left := [*filter(_runs, servers), *(replica.name for replica in stack.replicas if replica.running)]:
        printer.failed("the end", f"still running: {left}")
        return 1
    printer.summary(results, len(CHAPTERS), time.perf_counter() - began)
    return 0


def _runs(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
