"""Transports and clients for httpx2, which the SDKs of OpenAI and Anthropic send with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from cachepolicy_runtime.clients.adapter import Adapter
from cachepolicy_runtime.clients.bridge import LoopBridge
from cachepolicy_runtime.clients.exchange import Exchange
from cachepolicy_runtime.clients.missing import needs
from cachepolicy_runtime.clients.pools import pool

with needs("httpx2"):
    import httpx2


class CachingTransport(httpx2.AsyncBaseTransport):
    """Answers from the runtime's caches, else through ``inner``, which it closes with itself."""

    def __init__(self, exchange: Exchange, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner
        self._adapter = Adapter(httpx2, _Chunks, exchange, inner.handle_async_request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response: httpx2.Response = await self._adapter.handle(request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class ThreadTransport(httpx2.BaseTransport):
    """The same for code in threads: the runtime's event loop does the work, with its one pool of connections."""

    def __init__(self, inner: CachingTransport, bridge: LoopBridge) -> None:
        self._inner = inner
        self._bridge = bridge

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        asked = httpx2.Request(
            request.method,
            request.url,
            headers=request.headers,
            content=request.read(),
            extensions=request.extensions,
        )
        response = self._bridge.run(lambda: self._inner.handle_async_request(asked))
        if not isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = _ThreadChunks(response.stream, self._bridge)
        return response

    def close(self) -> None:
        self._bridge.run_if_open(self._inner.aclose)


def client(
    exchange: Exchange, transport: httpx2.AsyncBaseTransport | None, options: dict[str, Any]
) -> httpx2.AsyncClient:
    """An ``AsyncClient`` with these options whose requests go through ``exchange``."""
    inner = transport or pool(httpx2, options)
    return httpx2.AsyncClient(
        transport=CachingTransport(exchange, inner), **{"follow_redirects": True, **options}
    )


def thread_client(
    exchange: Exchange,
    bridge: LoopBridge,
    transport: httpx2.AsyncBaseTransport | None,
    options: dict[str, Any],
) -> httpx2.Client:
    """A ``Client`` for threads with these options whose requests go through ``exchange``."""
    inner = transport or pool(httpx2, options)
    return httpx2.Client(
        transport=ThreadTransport(CachingTransport(exchange, inner), bridge),
        **{"follow_redirects": True, **options},
    )


class _Chunks(httpx2.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes], close: Callable[[], Awaitable[None]]) -> None:
        self._chunks = chunks
        self._close = close

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        await self._close()


class _ThreadChunks(httpx2.SyncByteStream):
    """A stream of the event loop, read from a thread."""

    def __init__(self, stream: httpx2.AsyncByteStream, bridge: LoopBridge) -> None:
        self._stream = stream
        self._bridge = bridge

    def __iter__(self) -> Iterator[bytes]:
        return self._bridge.each(self._stream.__aiter__())

    def close(self) -> None:
        self._bridge.run_if_open(self._stream.aclose)
