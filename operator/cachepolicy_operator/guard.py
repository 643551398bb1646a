"""Runs one command for as long as its own standard input stays open.

Run as a script (standard library only):   python -I -S guard.py COMMAND…

The process that starts it keeps the other end of the pipe. The kernel closes that end however the process ends,
SIGKILL included; then the command gets SIGTERM and, five seconds later, SIGKILL. Written to the pipe, ``kill``
ends the command at once with SIGKILL. The exit code is the command's, 128 + n after signal n.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 5.0


def main(command: list[str]) -> int:
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # preexec_fn is safe: this process has one thread.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)  # noqa: S603, PLW1509 - the command is our caller's
    while child.poll() is None:
        readable, _, _ = select.select([0, wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 512)
        if 0 in readable:
            said = os.read(0, 512)
            if said:
                child.kill()
            else:
                _stop(child)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _end_with_parent() -> None:
    """Should this guard itself be killed, the kernel ends the command (Linux)."""
    for signal_number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_DFL)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
