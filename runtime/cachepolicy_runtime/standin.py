"""A stand-in for an LLM provider, for trials and tests: ``python -m cachepolicy_runtime.standin``.

It speaks the OpenAI API for chat completions (streaming too) and embeddings, takes a visible time for each
call, and answers the same request with the same content every time. ``GET /counts`` says how often it was
asked, which shows what a cache saved.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import math
import os
import random
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from cachepolicy import Duration
from cachepolicy_runtime import serving

DEFAULT_DELAY = Duration.parse("400ms")
DEFAULT_DIMENSIONS = 64
MAX_DIMENSIONS = 4096
#: What ``GET /counts`` tells: calls, streams that were read to their end, and texts embedded.
COUNTED = ("chat", "streams", "streamsFinished", "embeddings", "texts")
#: Every answer has this time in it: the same request gives the same bytes.
CREATED = 1_767_225_600

_REPLY = "This is a stand-in for a language model. It read {words} words and would say something helpful about {topic} now."


class BadRequestError(ValueError):
    """The request cannot be answered; the message says what is wrong."""


def create_app(delay: Duration = DEFAULT_DELAY) -> FastAPI:
    """The provider as an ASGI application; ``delay`` is how long one answer takes as a whole."""
    app = FastAPI(title="stand-in provider", openapi_url=None)
    counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))

    @app.get("/counts")
    async def count() -> dict[str, int]:
        return dict(counts)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await _body(request)
        words = reply(body).split(" ")
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        cut = isinstance(limit, int) and limit < len(words)
        spoken, reason = (words[:limit], "length") if cut else (words, "stop")

        async def events() -> AsyncIterator[bytes]:
            async for event in _stream(body, spoken, reason, delay):
                yield event
            counts["streamsFinished"] += 1

        if body.get("stream"):
            counts["streams"] += 1
            return StreamingResponse(events(), media_type="text/event-stream")
        counts["chat"] += 1
        await asyncio.sleep(delay.seconds)
        return _json(completion(body, spoken, reason))

    @app.post("/v1/embeddings")
    async def embed(request: Request) -> Response:
        body = await _body(request)
        texts = _texts(body.get("input"))
        dimensions = _dimensions(body.get("dimensions"))
        counts["embeddings"] += 1
        counts["texts"] += len(texts)
        await asyncio.sleep(delay.seconds)
        return _json(embeddings(body, texts, dimensions))

    @app.exception_handler(BadRequestError)
    async def refuse(_: Request, error: Exception) -> Response:
        content = {
            "error": {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}
        }
        return _json(content, 400)

    return app


def reply(body: Mapping[str, Any]) -> str:
    """What the stand-in says to these messages; it depends on nothing else."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages must be a list with at least one message")
    texts = [str(message.get("content") or "") for message in messages if isinstance(message, dict)]
    topic = " ".join(texts[-1].split()[:6]) if texts else ""
    return _REPLY.format(words=sum(len(text.split()) for text in texts), topic=repr(topic))


def completion(body: Mapping[str, Any], words: Sequence[str], reason: str) -> dict[str, Any]:
    """A chat completion; its usage counts words as tokens."""
    return {
        "id": f"chatcmpl-{_digest(body)}",
        "object": "chat.completion",
        "created": CREATED,
        "model": body.get("model"),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " ".join(words), "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
        ],
        "usage": _usage(_words(body), len(words)),
    }


def embeddings(body: Mapping[str, Any], texts: Sequence[str], dimensions: int) -> dict[str, Any]:
    encoded = body.get("encoding_format") == "base64"
    used = sum(len(text.split()) for text in texts)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector(text, dimensions), encoded)}
            for index, text in enumerate(texts)
        ],
        "model": body.get("model"),
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def vector(text: str, dimensions: int) -> list[float]:
    """A unit vector that only the text decides."""
    source = random.Random(text)  # noqa: S311 - numbers that look like an embedding
    values = [source.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


async def _stream(
    body: Mapping[str, Any], words: Sequence[str], reason: str, delay: Duration
) -> AsyncIterator[bytes]:
    """Server-sent events, one word each, evenly over the delay."""
    for chunk in _chunks(body, words, reason):
        await asyncio.sleep(delay.seconds / len(words))
        yield b"data: " + orjson.dumps(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _chunks(body: Mapping[str, Any], words: Sequence[str], reason: str) -> Iterator[dict[str, Any]]:
    common = {
        "id": f"chatcmpl-{_digest(body)}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": body.get("model"),
    }
    for number, word in enumerate(words):
        delta = {"content": f" {word}"} if number else {"role": "assistant", "content": word}
        yield {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**common, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield {**common, "choices": [], "usage": _usage(_words(body), len(words))}


def _usage(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _words(body: Mapping[str, Any]) -> int:
    return len(orjson.dumps(body["messages"]).split())


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:24]


def _encoded(values: list[float], encoded: bool) -> list[float] | str:
    return base64.b64encode(array("f", values).tobytes()).decode() if encoded else values


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise BadRequestError("the body is not JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise BadRequestError("the body must be an object with a model")
    return body


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise BadRequestError("input must be a text or a list of texts")
    return texts


def _dimensions(value: Any) -> int:
    if value is None:
        return DEFAULT_DIMENSIONS
    if not isinstance(value, int) or not 1 <= value <= MAX_DIMENSIONS:
        raise BadRequestError(f"dimensions must be a whole number from 1 to {MAX_DIMENSIONS}")
    return value


def _json(content: Mapping[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _delay(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main() -> None:
    parser = serving.parser(
        "python -m cachepolicy_runtime.standin",
        "A stand-in for an LLM provider, for trials and tests.",
        port=8080,
    )
    parser.add_argument(
        "--delay",
        type=_delay,
        default=os.environ.get("STANDIN_DELAY") or str(DEFAULT_DELAY),
        help="how long an answer takes, such as 400ms (STANDIN_DELAY)",
    )
    arguments = parser.parse_args()
    serving.log_to_stderr()
    serving.serve(create_app(arguments.delay), host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
