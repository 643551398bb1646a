"""Target 13: the embedded server: its start, shared use, and what is left when its user is killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import ROUNDS, Figure, spread_of
from benchmarks.servers import Server
from cachepolicy_operator import embedded

_PLAIN = 'save ""\nappendonly no\n'
_USER = """
import sys, time, pathlib
from cachepolicy_operator import embedded
folder = pathlib.Path(sys.argv[1])
print(embedded.start(embedded.Launch(folder, folder / "redis.conf")).pid, flush=True)
time.sleep(60)
"""


async def run(server: Server) -> list[Figure]:
    """``server`` is not used: each start is one of its own."""
    shared = [_four_users() for _ in range(3)]
    return [
        Figure(
            "13",
            "start of the embedded server until it answers PING",
            spread_of([_start() for _ in range(ROUNDS)]),
            "ms",
            300.0,
        ),
        Figure(
            "13",
            "servers of 4 processes on one folder",
            spread_of([servers for servers, _ in shared]),
            "servers",
            1.0,
        ),
        Figure(
            "13",
            "servers left 2 s after SIGKILL of all 4",
            spread_of([left for _, left in shared]),
            "servers",
            0.0,
        ),
    ]


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cp-bench-") as name:
        (Path(name) / "redis.conf").write_text(_PLAIN)
        yield Path(name)


def _start() -> float:
    with _folder() as folder:
        begin = time.perf_counter()
        server = embedded.start(embedded.Launch(folder, folder / "redis.conf"))
        elapsed = time.perf_counter() - begin
        server.stop()
    return elapsed * 1000


def _four_users() -> tuple[float, float]:
    """How many servers four processes use, and how many there are after all four were killed."""
    with _folder() as folder:
        users = [
            subprocess.Popen([sys.executable, "-c", _USER, str(folder)], stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        pids = {int(user.stdout.readline()) for user in users if user.stdout is not None}
        for user in users:
            user.kill()
            user.communicate()
        deadline = time.monotonic() + 2
        while any(map(_alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return float(len(pids)), float(sum(map(_alive, pids)))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
