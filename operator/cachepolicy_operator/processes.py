"""Further programs of the local stack, none of which outlives the process that started it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")
_LAST_LINES = 8


class ProcessError(Exception):
    """A program of the stack ended or did not come up; the message holds its own last words."""


@dataclass(frozen=True)
class Program:
    """What to run: a Python module, its environment on top of ours, and the file its output goes to."""

    name: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path


class Process:
    """A running :class:`Program` behind its guard."""

    def __init__(self, program: Program) -> None:
        self.program = program
        command = [sys.executable, "-m", program.module, *program.arguments]
        with program.log.open("ab") as log:
            self._guard = subprocess.Popen(  # noqa: S603 - our own modules
                [sys.executable, "-I", "-S", str(GUARD), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **program.environment},
                start_new_session=True,  # a Ctrl-C in the terminal is for us, who then stop it in order
            )

    @property
    def running(self) -> bool:
        return self._guard.poll() is None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after five seconds. Harmless when it has ended."""
        assert self._guard.stdin is not None  # noqa: S101 - a pipe was asked for
        with suppress(OSError):
            self._guard.stdin.close()
        self._guard.wait()

    def kill(self) -> None:
        """SIGKILL, as a node that dies would. Harmless when it has ended."""
        assert self._guard.stdin is not None  # noqa: S101 - a pipe was asked for
        with suppress(OSError):
            self._guard.stdin.write(b"kill\n")
            self._guard.stdin.flush()
        self._guard.wait()
        with suppress(OSError):
            self._guard.stdin.close()

    def last_words(self) -> str:
        lines = self.program.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        return "\n".join(f"  {line}" for line in lines)


def free_port() -> int:
    """A loopback TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
