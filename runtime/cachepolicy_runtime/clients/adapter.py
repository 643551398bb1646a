"""Between an :class:`Exchange` and httpx or httpx2, which are the same library under two names.

The modules named after them hold the typed classes; what those do is here once. ``Any`` stands for the class of
either library, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.clients.exchange import Exchange, Reply, Sent, is_json, of_interest
from cachepolicy_runtime.streams import ByteStream

#: They describe the bytes on the wire; what is handed on is decoded and whole.
_OF_THE_WIRE = ("content-encoding", "content-length", "transfer-encoding")

Send = Callable[[Any], Awaitable[Any]]


class Adapter:
    """Takes requests of one library to an exchange, and its replies back.

    Args:
        library: the module ``httpx`` or ``httpx2``.
        stream_class: its ``AsyncByteStream`` over an iterator and what closes it.
        send: asks the provider (``handle_async_request`` of the inner transport).
    """

    def __init__(self, library: Any, stream_class: Any, exchange: Exchange, send: Send) -> None:
        self._library = library
        self._stream_class = stream_class
        self._exchange = exchange
        self._send = send

    async def handle(self, request: Any) -> Any:
        path = request.url.path
        headers = _plain(request.headers) if of_interest(request.method, path) else {}
        if not is_json(headers):
            return await self._send(request)
        sent = Sent(str(request.url), headers, await request.aread())
        patience = _Patience((request.extensions.get("timeout") or {}).get("read"))
        passing: list[Passing] = []

        async def forward(content: bytes) -> Answer | ByteStream:
            patience.end()
            answer = await self._forward(request, content)
            if isinstance(answer, Passing):
                passing.append(answer)
            return answer

        try:
            async with patience:
                reply = await self._exchange.answer(sent, path, forward)
        except TimeoutError as error:
            if not patience.exhausted:
                raise
            told = "the answer to the same request, which is under way already, did not come in time"
            raise self._library.ReadTimeout(told, request=request) from error
        return self._response(reply, passing)

    async def _forward(self, request: Any, content: bytes) -> Answer | ByteStream:
        response = await self._send(self._with(request, content))
        response.request = request
        if response.status_code == 200 and _streams(response):
            return Passing(response)
        try:
            return Answer(response.status_code, await response.aread(), _unwired(response.headers))
        finally:
            await response.aclose()

    def _with(self, request: Any, content: bytes) -> Any:
        if content == request.content:
            return request
        headers = _unwired(request.headers)
        return self._library.Request(
            request.method, request.url, headers=headers, content=content, extensions=request.extensions
        )

    def _response(self, reply: Reply, passing: list[Passing]) -> Any:
        answer = reply.answer
        if isinstance(answer, Answer):
            return self._library.Response(
                answer.status, headers=_told(answer.headers, reply.headers), content=answer.body
            )
        response = passing[-1].response
        if answer is passing[-1]:
            response.headers = self._library.Headers(_told(response.headers, reply.headers))
            return response
        return self._library.Response(
            response.status_code,
            headers=_told(_unwired(response.headers), reply.headers),
            stream=self._stream_class(answer.chunks(), answer.aclose),
            extensions=response.extensions,
        )


class Passing:
    """A stream of the provider. Nobody having wrapped it, the response itself is handed on, with its own bytes."""

    def __init__(self, response: Any) -> None:
        self.response = response

    @property
    def headers(self) -> Mapping[str, str]:
        headers: Mapping[str, str] = self.response.headers
        return headers

    def chunks(self) -> AsyncIterator[bytes]:
        chunks: AsyncIterator[bytes] = self.response.aiter_bytes()
        return chunks

    async def aclose(self) -> None:
        await self.response.aclose()


class _Patience:
    """The caller's read timeout, for the time in which others do the work: the store, or a leader whose answer
    is waited for. Once this request goes to the provider itself, the library's own timeouts hold.
    """

    def __init__(self, seconds: float | None) -> None:
        self._timeout = asyncio.timeout(seconds)
        self._watching = False

    @property
    def exhausted(self) -> bool:
        return self._timeout.expired()

    def end(self) -> None:
        if self._watching and not self._timeout.expired():
            self._timeout.reschedule(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._watching = True

    async def __aexit__(self, *error: Any) -> None:
        self._watching = False  # a refresh in the background may still send
        await self._timeout.__aexit__(*error)


def _streams(response: Any) -> bool:
    return bool(response.headers.get("content-type", "").lower().startswith("text/event-stream"))


def _unwired(headers: Any) -> Any:
    """A copy without what describes the bytes on the wire."""
    kept = headers.copy()
    for name in _OF_THE_WIRE:
        kept.pop(name, None)
    return kept


def _plain(headers: Any) -> dict[str, str]:
    """As a mapping of names in lower case: a look-up in the library's own costs as much as this."""
    return {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in headers.raw}


def _told(headers: Any, ours: Mapping[str, str]) -> list[tuple[str, str]]:
    """With our headers; ``Cache-Status`` behind that of caches nearer to the provider (RFC 9211, section 2)."""
    theirs = headers.multi_items() if hasattr(headers, "multi_items") else headers.items()
    return [*theirs, *ours.items()]
