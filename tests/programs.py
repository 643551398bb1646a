"""Programs of this package as processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

GATEWAY = "cachepolicy_runtime.gateway"
STANDIN = "cachepolicy_runtime.standin"
#: What a start may take on a machine that runs many at once.
START_S = 50.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """A module run by Python, with nothing of this process's environment but what it needs to start."""

    def __init__(self, module: str, log: Path, environ: Mapping[str, str], *arguments: str) -> None:
        self.port = free_port()
        self.log = log
        essential = {"PATH": os.environ["PATH"], "PORT": str(self.port), "PYTHONDONTWRITEBYTECODE": "1"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**essential, **environ},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listens(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        pytest.fail(f"it does not listen: {self.log.read_text()}")

    def stop(self) -> int:
        """SIGTERM, as the kubelet sends it; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)
