"""``kubectl-cachepolicy dev``: one CachePolicy running on this machine, following the edits of its file."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cachepolicy_operator import validate
from cachepolicy_operator.embedded import EmbeddedError
from cachepolicy_operator.errors import Stalled
from cachepolicy_operator.local import LocalBackend
from cachepolicy_operator.local_files import LocalFilesError
from cachepolicy_operator.policyfile import PolicyManifest
from cachepolicy_operator.processes import ProcessError
from cachepolicy_operator.stack import Person, Stack, StackOptions, Upstream

#: For a person with curl. Loopback only, so they protect nothing.
PEOPLE: Final = {"dev-ann": Person("acme", "ann"), "dev-bob": Person("globex", "bob")}
_TURN_SECONDS: Final = 0.3
_REPAIR_EVERY_TURNS: Final = 10

Tell = Callable[[str], None]


def run(options: Namespace) -> bool:
    """Run until Ctrl-C or SIGTERM; False when the stack could not run."""
    manifest = validate.one_policy(options.file, sys.stderr)
    if manifest is None:
        return False
    try:
        asyncio.run(_run(options, manifest))
    except (EmbeddedError, LocalFilesError, ProcessError) as error:
        print(error, file=sys.stderr)
        return False
    return True


def data_folder(manifest: PolicyManifest) -> Path:
    """Where a policy's data is when nobody says otherwise (XDG base directory specification)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "cachepolicy" / manifest.namespace / manifest.name


async def _run(options: Namespace, manifest: PolicyManifest) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    upstream = Upstream(options.upstream, options.upstream_api_key_file) if options.upstream else None
    stack_options = StackOptions(options.replicas, options.port, PEOPLE, upstream)
    backend = LocalBackend(options.data or data_folder(manifest), _tell)
    async with Stack(backend, stack_options) as stack:
        starting = asyncio.ensure_future(stack.start(manifest))
        await _either(starting, stopped)
        if not stopped.is_set():
            _introduce(stack, manifest)
            await _follow(stack, options.file, manifest, stopped)
        _tell("stopping")


async def _either(starting: asyncio.Future[None], stopped: asyncio.Event) -> None:
    """Wait for the start, or for a Ctrl-C during it."""
    waiting = asyncio.ensure_future(stopped.wait())
    either: list[asyncio.Future[Any]] = [starting, waiting]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    else:
        starting.result()


async def _follow(stack: Stack, file: str, manifest: PolicyManifest, stopped: asyncio.Event) -> None:
    follower = Follower(stack, file, manifest, _tell)
    while not stopped.is_set():
        await follower.turn()
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await stopped.wait()
        except TimeoutError:
            continue


class _NotApplied(Exception):  # noqa: N818 - says what happened to the file
    """The edited file cannot be applied."""


class Follower:
    """One look after the other: at the file, at the servers and replicas, at who enforces what."""

    def __init__(self, stack: Stack, file: str, manifest: PolicyManifest, tell: Tell) -> None:
        self._stack = stack
        self._file = file
        self._manifest = manifest
        self._tell = tell
        self._stamp = _stamp(file)
        self._shown = ""
        self._turns = 0

    async def turn(self) -> None:
        """What changed since the last turn is applied, repaired and told."""
        self._turns += 1
        if self._file != validate.STDIN and (stamp := _stamp(self._file)) != self._stamp:
            self._stamp = stamp
            await self._apply_edit()
        if self._turns % _REPAIR_EVERY_TURNS == 0:
            await self._repair()
        await self._show()

    async def _apply_edit(self) -> None:
        backend = self._stack.backend
        revision = backend.document.revision if backend.document is not None else ""
        try:
            manifest = self._read_edit()
            if manifest == self._manifest:
                return
            applied = await backend.apply(manifest)
        except (_NotApplied, Stalled, EmbeddedError) as error:
            self._tell(f"{error}\nThe file is not applied: revision {revision} stays.".strip())
            return
        self._manifest = manifest
        if applied.revision != revision:
            self._tell(f"revision {applied.revision} is out")

    def _read_edit(self) -> PolicyManifest:
        """The edited policy. Raises :class:`_NotApplied` with everything that is wrong with it."""
        mistakes = io.StringIO()
        try:
            manifest = validate.one_policy(self._file, mistakes)
        except validate.UnreadableFileError as error:
            raise _NotApplied(str(error)) from error
        if manifest is None:
            raise _NotApplied(mistakes.getvalue().rstrip())
        if str(manifest) != str(self._manifest):
            raise _NotApplied(f"the file is now about {manifest}; start dev anew for it")
        if refused := list(validate.refused_edits(self._manifest.spec, manifest.spec)):
            raise _NotApplied("\n".join(refused))
        return manifest

    async def _repair(self) -> None:
        """Start again what ended. What does not start is told, and tried again a few turns later."""
        try:
            await self._stack.backend.repair()
            for replica in self._stack.replicas:
                if not replica.running:
                    self._tell(f"{replica.name} ended: starting it again; its log is {replica.program.log}")
                    await replica.start()
        except (EmbeddedError, ProcessError) as error:
            self._tell(str(error))

    async def _show(self) -> None:
        said = await self._stack.backend.reported(self._stack.pods)
        line = f"Enforced {said}: revision {said.revision}"
        if said.found.lagging:
            line += "; " + ", ".join(f"{pod} {why}" for pod, why in said.found.lagging.items())
        if line != self._shown:
            self._tell(line)
        self._shown = line


def _introduce(stack: Stack, manifest: PolicyManifest) -> None:
    _tell(f"{manifest} runs with {', '.join(manifest.spec.sections)}; data in {stack.backend.files.root}")
    for replica in stack.replicas:
        _tell(f"{replica.name}  {replica.url}")
    first = stack.replicas[0].url
    _tell(
        "try it:\n"
        f"  curl -i {first}/v1/chat/completions -H 'Authorization: Bearer {next(iter(PEOPLE))}' \\\n"
        "    -H 'Content-Type: application/json' "
        '-d \'{"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}\'\n'
        f"  curl {first}/cache/health"
    )
    _tell("edit the file and see it followed; Ctrl-C stops everything")


def _stamp(file: str) -> tuple[int, int, int] | None:
    """What changes with an edit, also with an editor that replaces the file; None when there is none."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _tell(line: str) -> None:
    print(line, flush=True)
