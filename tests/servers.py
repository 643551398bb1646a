"""The Redis servers that tests run against, each behind the same few attributes."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fakeredis
import redis
import redis.asyncio

from cachepolicy_operator import embedded

#: Every kind that the fixture ``server`` runs through; ``redis`` only where ``redis-server`` is on PATH.
KINDS = ("valkey", "redis", "fakeredis")
#: Kinds that are a process of their own: they have ACLs, INFO, eviction, and can be killed.
REAL_KINDS = ("valkey", "redis")

PLAIN_CONF = 'save ""\nappendonly no\n'


@dataclass(frozen=True)
class Server:
    """A running server: ``url`` for what is under test, clients for what the test looks at itself."""

    kind: str
    url: str

    @property
    def real(self) -> bool:
        return self.kind in REAL_KINDS

    def client(self) -> redis.asyncio.Redis:
        """A new asynchronous client that answers bytes; the caller closes it (``async with``)."""
        return redis.asyncio.Redis.from_url(self.url)

    def sync_client(self) -> redis.Redis:
        """A new blocking client that answers bytes; the caller closes it (``with``)."""
        return redis.Redis.from_url(self.url)

    def flush(self) -> None:
        with self.sync_client() as client:
            client.flushall()


def absent(kind: str) -> str | None:
    """Why this kind cannot run here; None when it can."""
    if kind == "redis" and shutil.which("redis-server") is None:
        return "redis-server is not on PATH"
    return None


@contextmanager
def running(kind: str) -> Iterator[Server]:
    """A fresh server of this kind with a plain configuration and no data."""
    with _fake() if kind == "fakeredis" else _process(kind) as server:
        yield server


@contextmanager
def _process(kind: str) -> Iterator[Server]:
    binary = embedded.find_binary() if kind == "valkey" else Path(str(shutil.which("redis-server")))
    # Not below pytest's own folders: their paths are too long for a unix socket.
    with tempfile.TemporaryDirectory(prefix="cp-") as folder:
        conf = Path(folder) / "redis.conf"
        conf.write_text(PLAIN_CONF)
        server = embedded.start(embedded.Launch(Path(folder), conf), binary=binary)
        try:
            yield Server(kind, server.url)
        finally:
            server.stop()


class _FakeServer(fakeredis.TcpFakeServer):
    """Closes every socket: where a client leaves before its handler is set up, upstream leaves that to the collector."""

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        super().shutdown_request(request)
        if isinstance(request, socket.socket) and request.fileno() != -1:
            os.close(request.detach())


@contextmanager
def _fake() -> Iterator[Server]:
    server = _FakeServer(("127.0.0.1", 0), server_type="redis", server_version=(7, 4))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Server("fakeredis", f"redis://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
