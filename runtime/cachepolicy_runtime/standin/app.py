"""The stand-in as an ASGI application."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from cachepolicy import Duration
from cachepolicy_runtime.standin import anthropic_shapes, openai_shapes
from cachepolicy_runtime.standin.knobs import HEADER, BadRequestError, Knobs
from cachepolicy_runtime.standin.saying import Said, say, text_of, texts_of
from cachepolicy_runtime.standin.vectors import embeddings, items_of

DEFAULT_DELAY = Duration.parse("400ms")
#: What ``GET /counts`` tells: calls by API (failed ones as ``errors``), streams, those that were read to their
#: end, texts embedded, and the most calls that were under way at once.
COUNTED = (
    *("chat", "completions", "responses", "messages", "streams", "streamsFinished"),
    *("embeddings", "texts", "errors", "atOnce"),
)


class DroppedError(Exception):
    """A stream breaks off in the middle, because its request wanted that."""


@dataclass(frozen=True, slots=True)
class Api:
    """One way to ask for text: what its requests hold, and what its answers look like."""

    name: str
    path: str
    texts: Callable[[Mapping[str, Any]], list[str]]
    whole: Callable[[Said], dict[str, Any]]
    events: Callable[[Said, Mapping[str, Any]], Iterator[dict[str, Any]]]
    named_events: bool = False

    def frames(self, said: Said, body: Mapping[str, Any]) -> Iterator[bytes]:
        """The events of a stream as bytes."""
        for event in self.events(said, body):
            name = f"event: {event['type']}\n" if self.named_events else ""
            yield name.encode() + b"data: " + orjson.dumps(event) + b"\n\n"
        if not self.named_events:
            yield b"data: [DONE]\n\n"


def _prompts(body: Mapping[str, Any]) -> list[str]:
    prompt = body.get("prompt")
    given = prompt if isinstance(prompt, list) else [prompt]
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        raise BadRequestError("prompt must be a text or a list of texts")
    return texts


def _response_input(body: Mapping[str, Any]) -> list[str]:
    asked = body.get("input")
    texts = [asked] if isinstance(asked, str) else texts_of(asked, "input")
    return [*filter(None, [text_of(body.get("instructions"))]), *texts]


def _messages_input(body: Mapping[str, Any]) -> list[str]:
    if not isinstance(body.get("max_tokens"), int):
        raise BadRequestError("max_tokens: field required")
    return [*filter(None, [text_of(body.get("system"))]), *texts_of(body.get("messages"), "messages")]


APIS = (
    Api(
        "chat",
        "/v1/chat/completions",
        lambda body: texts_of(body.get("messages"), "messages"),
        openai_shapes.chat,
        openai_shapes.chat_events,
    ),
    Api(
        "completions",
        "/v1/completions",
        _prompts,
        openai_shapes.completion,
        openai_shapes.completion_events,
    ),
    Api(
        "responses",
        "/v1/responses",
        _response_input,
        openai_shapes.response,
        openai_shapes.response_events,
        named_events=True,
    ),
    Api(
        "messages",
        "/v1/messages",
        _messages_input,
        anthropic_shapes.message,
        anthropic_shapes.message_events,
        named_events=True,
    ),
)


class StandIn:
    """The handlers, and what they counted."""

    def __init__(self, delay: Duration) -> None:
        self._delay = delay
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._under_way = 0

    def generates(self, api: Api) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            body, knobs = await _read(request)
            said = say(body, api.texts(body), knobs)
            if knobs.status is not None:
                return await self._fail(knobs, knobs.status, request.url.path)
            if not body.get("stream"):
                self.counts[api.name] += 1
                await self._takes(knobs)
                return _json(api.whole(said))
            self.counts["streams"] += 1
            frames = list(api.frames(said, body))
            return StreamingResponse(self._stream(frames, knobs), media_type="text/event-stream")

        return answer

    async def embed(self, request: Request) -> Response:
        body, knobs = await _read(request)
        items = items_of(body.get("input"))
        content = embeddings(body, items)
        if knobs.status is not None:
            return await self._fail(knobs, knobs.status, request.url.path)
        self.counts["embeddings"] += 1
        self.counts["texts"] += len(items)
        await self._takes(knobs)
        return _json(content if knobs.usage else {**content, "usage": None})

    async def models(self) -> Response:
        model = {"id": "stand-in", "object": "model", "created": 0, "owned_by": "cachepolicy"}
        return _json({"object": "list", "data": [model]})

    async def _stream(self, frames: list[bytes], knobs: Knobs) -> AsyncIterator[bytes]:
        """Evenly over the delay, as far as the request wants it to come."""
        for number, frame in enumerate(frames):
            if knobs.cut == number:
                return
            if knobs.drop == number:
                raise DroppedError
            await self._takes(knobs, share=len(frames))
            yield frame
        self.counts["streamsFinished"] += 1

    async def _fail(self, knobs: Knobs, status: int, path: str) -> Response:
        self.counts["errors"] += 1
        await self._takes(knobs)
        wait = {"retry-after": str(knobs.retry_after)} if knobs.retry_after is not None else {}
        return _error(path, status, "the request asked for this error", wait)

    async def _takes(self, knobs: Knobs, share: int = 1) -> None:
        self._under_way += 1
        self.counts["atOnce"] = max(self.counts["atOnce"], self._under_way)
        try:
            await asyncio.sleep((knobs.delay or self._delay).seconds / share)
        finally:
            self._under_way -= 1


def create_app(delay: Duration = DEFAULT_DELAY) -> FastAPI:
    """The provider as an ASGI application; ``delay`` is how long one answer takes as a whole."""
    app = FastAPI(title="stand-in provider", openapi_url=None)
    provider = StandIn(delay)

    async def counts() -> Response:
        return _json(provider.counts)

    async def refuse(request: Request, error: Exception) -> Response:
        return _error(request.url.path, 400, str(error))

    app.add_api_route("/counts", counts, methods=["GET"], response_model=None)
    app.add_api_route("/v1/models", provider.models, methods=["GET"], response_model=None)
    for api in APIS:
        app.add_api_route(api.path, provider.generates(api), methods=["POST"], response_model=None)
    app.add_api_route("/v1/embeddings", provider.embed, methods=["POST"], response_model=None)
    app.add_exception_handler(BadRequestError, refuse)
    return app


async def _read(request: Request) -> tuple[dict[str, Any], Knobs]:
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise BadRequestError("the body is not JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise BadRequestError("the body must be an object with a model")
    return body, Knobs.of(request.headers.get(HEADER), body)


def _error(path: str, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    if path == "/v1/messages":
        return _json(anthropic_shapes.error(status, text), status, headers)
    kind = "invalid_request_error" if status < 500 else "server_error"
    return _json({"error": {"message": text, "type": kind, "param": None, "code": None}}, status, headers)


def _json(
    content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")
