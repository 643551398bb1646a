"""Target 7: what a limiter leaves of an application's throughput, over HTTP, by uvicorn."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import product
from benchmarks.app import KINDS
from benchmarks.harness import SERVER_CORE, Figure, Measure, interleaved, peers_of, pinned, ratios
from benchmarks.servers import Server, free_port

_REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\nAccept: */*\r\n\r\n"
_CONNECTIONS = 32
_SECONDS = 0.6
_PATIENCE_S = 90.0


async def run(server: Server) -> list[Figure]:
    """The application has a core of its own; the load and Redis, which need little, share the other one."""
    with ExitStack() as stack:
        folders = {
            "ours": stack.enter_context(product.policy(server.url)),
            "ours in memory": stack.enter_context(product.policy(None)),
        }
        ports = {kind: stack.enter_context(_app(kind, str(folders.get(kind, server.url)))) for kind in KINDS}
        for port in ports.values():
            await _ready(port)
        stack.enter_context(pinned(SERVER_CORE))
        rounds = await interleaved({kind: _load(port) for kind, port in ports.items()})
    peers = peers_of(rounds, "bare", "ours")
    del peers["ours in memory"]
    return [
        Figure(
            "7",
            "throughput with the limiter on Redis",
            ratios(rounds["ours"], rounds["bare"]),
            "of bare",
            0.85,
            at_least=True,
            peers=peers,
        ),
        Figure(
            "7",
            "throughput with the limiter in memory",
            ratios(rounds["ours in memory"], rounds["bare"]),
            "of bare",
            0.92,
            at_least=True,
        ),
    ]


@contextmanager
def _app(kind: str, place: str) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.app", kind, place, str(port)])
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


async def _ready(port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            client = await _Client.connect(port)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
    await client.ask_until(time.perf_counter())
    client.close()


def _load(port: int) -> Measure:
    async def measure() -> float:
        clients = [await _Client.connect(port) for _ in range(_CONNECTIONS)]
        start = time.perf_counter()
        answered = await asyncio.gather(*(client.ask_until(start + _SECONDS) for client in clients))
        elapsed = time.perf_counter() - start
        for client in clients:
            client.close()
        return sum(answered) / elapsed

    return measure


class _Client(asyncio.Protocol):
    """One connection that asks again as soon as it is answered; an answer is whole at the end of its body."""

    def __init__(self) -> None:
        self._until = 0.0
        self._answered = 0
        self._seen = b""
        self._done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, port: int) -> _Client:
        _, client = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask_until(self, moment: float) -> int:
        """How many answers came until then, at least one. Raises for any but 200."""
        self._until = moment
        self._transport.write(_REQUEST)
        return await self._done

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if not self._seen.endswith(b"}"):
            return
        answer, self._seen = self._seen, b""
        if not answer.startswith(b"HTTP/1.1 200 "):
            self._done.set_exception(RuntimeError(answer.decode(errors="replace")))
            return
        self._answered += 1
        if time.perf_counter() < self._until:
            self._transport.write(_REQUEST)
        else:
            self._done.set_result(self._answered)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionError("the application closed the connection"))

    def close(self) -> None:
        self._transport.close()
