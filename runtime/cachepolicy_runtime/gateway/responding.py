"""What the gateway sends: whole answers, and streams that nobody collects on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from fastapi import Response
from fastapi.responses import StreamingResponse

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.asgi.types import Receive, Scope, Send
from cachepolicy_runtime.caller import current_scope
from cachepolicy_runtime.gateway.shapes import error_event, speaks_anthropic
from cachepolicy_runtime.ratelimit_answer import headers as limit_headers
from cachepolicy_runtime.responses import Outcome
from cachepolicy_runtime.spend import answered
from cachepolicy_runtime.streams import ByteStream
from cachepolicy_runtime.upstream import UpstreamError

#: Proxies such as nginx would otherwise collect the events.
_UNBUFFERED = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}


class StreamedResponse(StreamingResponse):
    """Passes a stream on chunk by chunk, and closes it even if the caller goes before the first one.

    One that the provider breaks off ends with an error as its API has it: the end alone would look like success.
    """

    def __init__(self, stream: ByteStream, headers: Mapping[str, str]) -> None:
        super().__init__((), headers={**stream.headers, **headers, **_UNBUFFERED})
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.body_iterator = _told_if_broken(self._stream, speaks_anthropic(scope))
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.aclose()


async def _told_if_broken(stream: ByteStream, anthropic: bool) -> AsyncIterator[bytes]:
    try:
        async for chunk in stream.chunks():
            yield chunk
    except UpstreamError as error:
        yield error_event(anthropic, error.status, str(error), "upstream_error")


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def outcome_response(outcome: Outcome[Answer | ByteStream]) -> Response:
    """The provider's answer or the cached one, with the headers that say which and what it was counted for."""
    answer = outcome.answer
    if isinstance(answer, Answer):
        whole = Response(answer.body, answer.status, {**answer.headers, **outcome.headers})
        return with_spending(whole)
    return with_spending(StreamedResponse(answer, outcome.headers))


def with_spending(response: Response) -> Response:
    """The response to a request that is answered now, with ``RateLimit`` headers for what the answer cost.

    They are further lines beside those of admission: a list may come in several (RFC 9110, 5.3).
    """
    decision = answered(current_scope())
    if decision is not None:
        response.raw_headers.extend(limit_headers(decision))
    return response
