"""The servers that are measured: a plain configuration, loopback TCP, a core of their own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from benchmarks.harness import SERVER_CORE, pinned
from cachepolicy_operator import embedded


@dataclass(frozen=True)
class Server:
    """A running server; ``name`` with its version."""

    name: str
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def admin(self) -> redis.Redis:
        return redis.Redis("127.0.0.1", self.port)

    def commands(self) -> dict[str, int]:
        """How often each command was carried out, those of scripts included."""
        with self.admin() as client:
            stats = client.info("commandstats")
        assert isinstance(stats, dict)
        return {name.removeprefix("cmdstat_"): int(value["calls"]) for name, value in stats.items()}


def binaries() -> list[Path]:
    """The embedded Valkey, and ``redis-server`` where it is on PATH."""
    found = shutil.which("redis-server")
    return [embedded.find_binary(), *([Path(found)] if found else [])]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(binary: Path) -> Iterator[Server]:
    port = free_port()
    places = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="cp-bench-") as folder:
        with pinned(SERVER_CORE):
            process = subprocess.Popen([str(binary), *places, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            yield Server(_name(port), port, process.pid)
        finally:
            process.kill()
            process.wait()


def _name(port: int) -> str:
    with redis.Redis("127.0.0.1", port) as client:
        deadline = time.monotonic() + 10
        while True:
            try:
                info = client.info("server")
                break
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
    assert isinstance(info, dict)
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"
