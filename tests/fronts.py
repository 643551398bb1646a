"""A proxy before a server, in the event loop of the test: it encrypts, slows down, cuts and counts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from cachepolicy_runtime.store.endpoint import parse_url


class Front:
    """What a test may turn while connections are open.

    Attributes:
        delay_s: how long every piece of an answer is held back.
        cut_after: bytes of an answer after which a connection is cut; once, and then no more.
        keeps_cutting: not only once.
        answers: sent instead of the server's answers, one for each piece that a client sends; None: all its own.
        opened: connections so far.
    """

    def __init__(self, server_socket: str) -> None:
        self._server_socket = server_socket
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.delay_s = 0.0
        self.cut_after: int | None = None
        self.keeps_cutting = False
        self.answers: list[bytes] | None = None
        self.opened = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Every connection that is open."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._server_socket)
        both = {writer, inner_writer}
        self._writers |= both
        try:
            await asyncio.gather(
                self._questions(reader, inner_writer, writer), self._answers(inner_reader, writer)
            )
        finally:
            self._writers -= both
            for each in both:
                each.transport.abort()

    async def _questions(
        self, reader: asyncio.StreamReader, inner: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.answers:
                    writer.write(self.answers.pop(0))
                    continue
                inner.write(data)
                await inner.drain()
        inner.transport.abort()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await asyncio.sleep(self.delay_s)
                if self.cut_after is not None and len(data) > self.cut_after:
                    writer.write(data[: self.cut_after])
                    if not self.keeps_cutting:
                        self.cut_after = None
                    await writer.drain()
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def front(server_url: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Front]:
    """Before a server with a unix socket; ``tls`` is the context of the server's side."""
    made = Front(parse_url(server_url)[0].path)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.cut()
        await asyncio.sleep(0.01)  # the handlers end
        await server.wait_closed()
