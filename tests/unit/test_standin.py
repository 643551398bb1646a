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
from cachepolicy_runtime.metering import Meter
from cachepolicy_runtime.standin import create_app
from cachepolicy_runtime.usage import usage_of

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
    assert {name: count for name, count in counts.items() if count} == {"chat": 2, "atOnce": 1}


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
        ("/v1/embeddings", {"model": "m", "input": [{}]}, "input"),
        ("/v1/embeddings", {"model": "m", "input": [[1], []]}, "input"),
        ("/v1/embeddings", {"model": "m", "input": "a", "dimensions": 0}, "dimensions"),
        ("/v1/completions", {"model": "m", "prompt": 5}, "prompt"),
        ("/v1/responses", {"model": "m", "input": []}, "input"),
        ("/v1/messages", {"model": "m", "messages": CHAT["messages"]}, "max_tokens"),
        ("/v1/chat/completions", {**CHAT, "metadata": {"standin": "mood=bad"}}, "mood"),
    ],
)
async def test_a_bad_request_is_answered_in_the_shape_of_its_api(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], what: str
) -> None:
    """With the field in the message."""
    got = await client.post(path, json=body)
    assert got.status_code == 400
    assert what in got.json()["error"]["message"]
    assert ("type" in got.json()) == (path == "/v1/messages")


COMPLETION = {"model": "m", "prompt": "Tell me about Valkey"}
RESPONSE = {"model": "m", "input": "Tell me about Valkey"}
MESSAGE = {**CHAT, "max_tokens": 100}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", COMPLETION),
    ("/v1/responses", RESPONSE),
    ("/v1/messages", MESSAGE),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_every_api_gives_a_whole_answer_that_may_be_cached(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    """And none whose bound cut it off."""
    for bound, why in (({}, None), ({"max_tokens": 2}, "finish-reason")):
        got = await client.post(path, json={**body, **bound})
        expected = "incomplete" if path == "/v1/responses" and why else why
        assert refusal(Answer(200, got.content, got.headers), Cacheable()) == expected


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_a_stream_tells_the_usage_of_the_whole_answer(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    """What is read from the events is what the whole answer says, tokens of the prompt cache included."""
    body = {**body, "metadata": {"standin": "cached=3"}}
    whole = usage_of((await client.post(path, json=body)).json())
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    got = await client.post(path, json=streamed)
    meter = Meter()
    meter.feed(got.content)
    assert meter.usage == whole
    assert whole is not None
    assert whole.cached_input == 3
    assert whole.output == pytest.approx(meter.streamed, rel=0.7)


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_a_request_may_ask_for_a_failure(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    """By a header too; it is counted apart."""
    knob = {"x-standin": "status=503, retry-after=7, delay=0s"}
    got = await client.post(path, json=body, headers=knob)
    assert (got.status_code, got.headers["retry-after"]) == (503, "7")
    silent = {**body, "metadata": {"standin": "usage=none"}}
    assert usage_of((await client.post(path, json=silent)).json()) is None
    short = {**body, "stream": True, "metadata": {"standin": "cut=3"}}
    assert (await client.post(path, json=short)).text.count("data:") == 3
    counts = (await client.get("/counts")).json()
    assert (counts["errors"], counts["streams"], counts["streamsFinished"]) == (1, 1, 0)


async def test_a_tool_is_called_where_the_request_wants_it(client: httpx.AsyncClient) -> None:
    tool = {"metadata": {"standin": "tool=weather"}}
    for path, body in REQUESTS:
        if path != "/v1/completions":
            got = await client.post(path, json={**body, **tool})
            assert refusal(Answer(200, got.content, got.headers), Cacheable()) == "tool-calls"


async def test_tokens_are_embedded_as_texts_are(client: httpx.AsyncClient) -> None:
    """One list, or several."""
    one = (await client.post("/v1/embeddings", json={"model": "e", "input": [1, 2]})).json()
    two = (await client.post("/v1/embeddings", json={"model": "e", "input": [[3], [1, 2]]})).json()
    assert one["data"][0]["embedding"] == two["data"][1]["embedding"] != two["data"][0]["embedding"]
    assert (one["usage"]["prompt_tokens"], two["usage"]["prompt_tokens"]) == (2, 3)
