"""The stand-in provider answers like one, the same every time."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cachepolicy import Duration
from cachepolicy.response_cache import Cacheable
from cachepolicy_runtime.answers import Answer, refusal
from cachepolicy_runtime.standin import create_app

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Tell me about Valkey"}]}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(Duration(0)))
    async with httpx.AsyncClient(transport=transport, base_url="http://standin") as client:
        yield client


async def test_a_chat_answer_is_complete_and_the_same_every_time(client: httpx.AsyncClient) -> None:
    """So that it may be cached, and so that a test can compare bytes."""
    first = await client.post("/v1/chat/completions", json=CHAT)
    second = await client.post("/v1/chat/completions", json=CHAT)
    assert first.content == second.content
    assert refusal(Answer(200, first.content, first.headers), Cacheable()) is None
    counts = (await client.get("/counts")).json()
    assert counts == {"chat": 2, "streams": 0, "streamsFinished": 0, "embeddings": 0, "texts": 0}


async def test_an_answer_that_is_cut_off_says_so(client: httpx.AsyncClient) -> None:
    """max_tokens below the answer's length gives finish_reason length."""
    got = await client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 2})
    choice = got.json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == "This is"


async def test_a_stream_says_the_same_in_events(client: httpx.AsyncClient) -> None:
    """Server-sent events, closed by [DONE]; the pieces make the whole answer."""
    whole = (await client.post("/v1/chat/completions", json=CHAT)).json()["choices"][0]["message"]["content"]
    streamed = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    got = await client.post("/v1/chat/completions", json=streamed)
    assert got.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in got.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks: list[dict[str, Any]] = [json.loads(event) for event in events[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == whole
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == len(whole.split(" "))
    counts = (await client.get("/counts")).json()
    assert (counts["streams"], counts["streamsFinished"]) == (1, 1)


async def test_embeddings_belong_to_their_texts(client: httpx.AsyncClient) -> None:
    """One unit vector for each text, whatever else is in the batch; base64 where asked for."""
    pair = await client.post("/v1/embeddings", json={"model": "e", "input": ["a", "b"], "dimensions": 8})
    alone = await client.post(
        "/v1/embeddings", json={"model": "e", "input": "b", "dimensions": 8, "encoding_format": "base64"}
    )
    values = pair.json()["data"][1]["embedding"]
    assert sum(value * value for value in values) == pytest.approx(1)
    packed = base64.b64decode(alone.json()["data"][0]["embedding"])
    assert list(struct.unpack("<8f", packed)) == pytest.approx(values)
    assert (await client.get("/counts")).json()["texts"] == 3


@pytest.mark.parametrize(
    ("path", "body", "what"),
    [
        ("/v1/chat/completions", {"model": "m"}, "messages"),
        ("/v1/chat/completions", {"messages": []}, "model"),
        ("/v1/embeddings", {"model": "m", "input": []}, "input"),
        ("/v1/embeddings", {"model": "m", "input": [1]}, "input"),
        ("/v1/embeddings", {"model": "m", "input": "a", "dimensions": 0}, "dimensions"),
    ],
)
async def test_a_bad_request_is_answered_in_openais_shape(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], what: str
) -> None:
    """With the field in the message."""
    got = await client.post(path, json=body)
    assert got.status_code == 400
    assert what in got.json()["error"]["message"]
