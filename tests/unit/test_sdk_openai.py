"""The official SDK of OpenAI above the runtime: cached, coalesced, and otherwise as if nothing were there."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from tests.clients import ACME, GLOBEX, HI, Trial, trial
from tests.replicas import until

from cachepolicy_runtime import acting_as


@pytest.fixture
async def sut() -> AsyncIterator[Trial]:
    async with trial() as made:
        yield made


async def test_the_same_request_is_answered_once_by_the_provider(sut: Trial) -> None:
    client = sut.openai()
    first = await client.chat.completions.create(model="gpt-x", messages=HI)
    second = await client.chat.completions.create(model="gpt-x", messages=HI)
    assert second == first
    assert first.choices[0].message.content
    assert await sut.asked() == 1


async def test_the_raw_answer_says_where_it_came_from(sut: Trial) -> None:
    raw = sut.openai().chat.completions.with_raw_response
    miss = await raw.create(model="gpt-x", messages=HI)
    hit = await raw.create(model="gpt-x", messages=HI)
    assert miss.headers["cache-status"] == "CachePolicy; fwd=uri-miss; fwd-status=200; stored"
    assert "age" not in miss.headers
    assert hit.headers["cache-status"].startswith("CachePolicy; hit; ttl=")
    assert hit.headers["age"] == "0"
    assert hit.headers["content-type"] == "application/json"
    assert hit.http_response.content == miss.http_response.content
    assert hit.parse().choices[0].finish_reason == "stop"


async def test_tenants_do_not_share_answers_and_nobody_has_any(sut: Trial) -> None:
    for identity in (ACME, GLOBEX, None, None):
        await sut.openai(identity).chat.completions.create(model="gpt-x", messages=HI)
    assert await sut.asked() == 4
    raw = await sut.openai(None).chat.completions.with_raw_response.create(model="gpt-x", messages=HI)
    assert raw.headers["cache-status"] == "CachePolicy; fwd=bypass; detail=no-identity"


async def test_one_client_serves_whoever_the_running_code_works_for(sut: Trial) -> None:
    client = sut.openai(None)
    for identity in (ACME, GLOBEX, ACME, GLOBEX):
        with acting_as(identity):
            await client.chat.completions.create(model="gpt-x", messages=HI)
    assert await sut.asked() == 2


@pytest.mark.parametrize("name", ["x-tenant", "openai-organization", "authorization", "x-forwarded-user"])
async def test_no_header_chooses_a_tenant(sut: Trial, name: str) -> None:
    """Acme's answer stays Acme's, whatever somebody else sends."""
    await sut.openai(ACME).chat.completions.create(model="gpt-x", messages=HI)
    forged = {name: "acme"}
    await sut.openai(GLOBEX).chat.completions.create(model="gpt-x", messages=HI, extra_headers=forged)
    assert await sut.asked() == 2


async def test_a_request_may_ask_for_a_fresh_answer(sut: Trial) -> None:
    client = sut.openai()
    await client.chat.completions.create(model="gpt-x", messages=HI)
    fresh = {"Cache-Control": "no-cache"}
    await client.chat.completions.create(model="gpt-x", messages=HI, extra_headers=fresh)
    assert await sut.asked() == 2


async def test_what_must_come_from_the_cache_is_refused_at_once_where_it_is_not_there(sut: Trial) -> None:
    """The SDK would otherwise try again, twice, and find no more than before."""
    only = {"Cache-Control": "only-if-cached"}
    client = sut.openai()
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="gpt-x", messages=HI, extra_headers=only)
    assert caught.value.status_code == 504
    assert caught.value.response.headers["x-should-retry"] == "false"
    await client.chat.completions.create(model="gpt-x", messages=HI)
    assert (await client.chat.completions.create(model="gpt-x", messages=HI, extra_headers=only)).choices
    assert await sut.asked() == 1


async def test_a_stale_answer_is_renewed_after_the_sdk_has_it(tmp_path: Path) -> None:
    policy = {"responseCache": {"ttl": "1ms", "staleWhileRevalidate": "1h"}}
    async with trial(tmp_path, policy) as sut:
        client = sut.openai()
        await client.chat.completions.create(model="gpt-x", messages=HI)

        async def stale() -> bool:
            raw = await client.chat.completions.with_raw_response.create(model="gpt-x", messages=HI)
            return raw.headers["cache-status"].endswith("detail=stale")

        await until(stale)
        await until(lambda: renewed(sut))


async def test_the_providers_time_is_the_librarys_to_bound(sut: Trial) -> None:
    """Only waiting for others is bounded here; this network has no timeouts of its own."""
    client = sut.openai(max_retries=0, timeout=0.05)
    knobs = {"x-standin": "delay=200ms"}
    assert (await client.chat.completions.create(model="gpt-x", messages=HI, extra_headers=knobs)).choices


async def renewed(sut: Trial) -> bool:
    return await sut.asked() > 1


async def test_a_whole_answer_can_be_read_as_a_stream_of_bytes(sut: Trial) -> None:
    streaming = sut.openai().chat.completions.with_streaming_response
    for _ in range(2):
        async with streaming.create(model="gpt-x", messages=HI) as response:
            assert (await response.parse()).choices
    assert await sut.asked() == 1


async def test_requests_at_the_same_time_are_one_request(tmp_path: Path) -> None:
    async with trial(tmp_path, {"responseCache": {"coalesce": {}}}) as sut:
        client = sut.openai()
        answers = await asyncio.gather(
            *(client.chat.completions.create(model="gpt-x", messages=HI) for _ in range(20))
        )
        assert all(answer == answers[0] for answer in answers)
        assert await sut.asked() == 1


async def test_a_stream_passes_and_is_never_kept(sut: Trial) -> None:
    client = sut.openai()
    texts = []
    for _ in range(2):
        stream = await client.chat.completions.create(model="gpt-x", messages=HI, stream=True)
        assert stream.response.headers["cache-status"] == "CachePolicy; fwd=bypass; detail=stream"
        texts.append(
            "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        )
    whole = await client.chat.completions.create(model="gpt-x", messages=HI)
    assert texts == [whole.choices[0].message.content] * 2
    assert (await sut.asked("streams"), await sut.asked()) == (2, 1)


async def test_a_stream_that_its_reader_leaves_is_closed(sut: Trial) -> None:
    stream = await sut.openai().chat.completions.create(model="gpt-x", messages=HI, stream=True)
    async with stream:
        async for _ in stream:
            break
    assert stream.response.is_closed


async def test_completions_and_responses_are_kept_too(sut: Trial) -> None:
    client = sut.openai()
    for _ in range(2):
        await client.completions.create(model="gpt-x", prompt="Hi")
        answer = await client.responses.create(model="gpt-x", input="Hi")
        assert answer.output_text
    assert (await sut.asked("completions"), await sut.asked("responses")) == (1, 1)


async def test_calls_of_tools_come_back_whole_and_are_not_kept_by_default(sut: Trial) -> None:
    client = sut.openai()
    for _ in range(2):
        answer = await client.chat.completions.create(
            model="gpt-x", messages=HI, metadata={"standin": "tool=weather"}
        )
        calls = answer.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].type == "function"
        assert calls[0].function.name == "weather"
    assert await sut.asked() == 2


async def test_embeddings_are_kept_text_by_text(sut: Trial) -> None:
    client = sut.openai()
    both = await client.embeddings.create(model="embed-x", input=["one", "two"])
    raw = await client.embeddings.with_raw_response.create(model="embed-x", input=["three", "two"])
    again = raw.parse()
    assert again.data[1].embedding == both.data[1].embedding
    assert again.data[0].embedding != both.data[0].embedding
    assert [item.index for item in again.data] == [0, 1]
    assert raw.headers["cache-status"] == 'CachePolicy; fwd=partial; detail="1 known, 1 computed"'
    assert await sut.asked("texts") == 3


async def test_embeddings_are_numbers_where_numbers_are_asked_for(sut: Trial) -> None:
    client = sut.openai()
    encoded = await client.embeddings.create(model="embed-x", input="one")
    numbers = await client.embeddings.create(model="embed-x", input="one", encoding_format="float")
    assert numbers.data[0].embedding == pytest.approx(encoded.data[0].embedding)
    assert await sut.asked("texts") == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ],
)
async def test_errors_of_the_provider_are_the_sdks_own_and_not_kept(
    sut: Trial, status: int, error: type[openai.APIStatusError]
) -> None:
    client = sut.openai(max_retries=0)
    with pytest.raises(error) as caught:
        await client.chat.completions.create(
            model="gpt-x", messages=HI, metadata={"standin": f"status={status}"}
        )
    assert caught.value.status_code == status
    assert (await client.chat.completions.create(model="gpt-x", messages=HI)).choices


async def test_the_provider_refusing_a_part_of_a_batch_refuses_the_whole(sut: Trial) -> None:
    client = sut.openai(max_retries=0)
    await client.embeddings.create(model="embed-x", input=["one"])
    with pytest.raises(openai.InternalServerError):
        await client.embeddings.create(
            model="embed-x", input=["one", "two"], extra_headers={"x-standin": "status=500"}
        )


async def test_what_the_provider_answers_in_error_is_tried_again_by_the_sdk(sut: Trial) -> None:
    client = sut.openai(max_retries=1)
    knobs = {"standin": "status=503, retry-after=0"}
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="gpt-x", messages=HI, metadata=knobs)
    assert await sut.asked("errors") == 2


async def test_other_requests_pass_untouched(sut: Trial) -> None:
    raw = await sut.openai().models.with_raw_response.list()
    assert raw.http_response.status_code == 200
    assert "cache-status" not in raw.headers


async def test_compressed_answers_are_kept_and_given_decoded(sut: Trial) -> None:
    """What is handed on says nothing of an encoding that it no longer has."""
    asked = 0

    class Zipping(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            nonlocal asked
            asked += 1
            response = await sut.network.handle_async_request(request)
            body = gzip.compress(await response.aread())
            headers = {"content-type": "application/json", "content-encoding": "gzip"}
            return httpx2.Response(200, headers=headers, content=body)

    http = sut.runtime.http_client("openai", identity=ACME, transport=Zipping())
    client = AsyncOpenAI(api_key="sk-test", base_url="http://provider/v1", http_client=http)
    for _ in range(2):
        raw = await client.chat.completions.with_raw_response.create(model="gpt-x", messages=HI)
        assert "content-encoding" not in raw.headers
        assert int(raw.headers["content-length"]) == len(raw.http_response.content)
        assert raw.parse().choices[0].message.content
    assert asked == 1


async def test_the_older_httpx_does_as_well(sut: Trial) -> None:
    network = httpx.ASGITransport(sut.provider)
    http = sut.runtime.http_client("openai", library="httpx", identity=ACME, transport=network)
    client = AsyncOpenAI(api_key="sk-test", base_url="http://provider/v1", http_client=http)  # type: ignore[arg-type]  # the SDK takes both and names one
    for _ in range(2):
        await client.chat.completions.create(model="gpt-x", messages=HI)
    async with httpx.AsyncClient(transport=sut.runtime.transport("openai", network, identity=ACME)) as plain:
        body: dict[str, Any] = {"messages": HI, "model": "gpt-x"}
        hit = await plain.post("http://provider/v1/chat/completions", json=body)
    assert hit.headers["cache-status"].startswith("CachePolicy; hit")
    assert await sut.asked() == 1


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "gpt-x", "model": "gpt-y", "messages": [{"role": "user", "content": "Hi"}]}',
        b'{"model": "gpt-x", "messages": [{"role": "user", "content": "Hi", "content": "Ho"}]}',
        b"[1]",
        b"no json",
    ],
)
async def test_a_body_that_can_be_read_in_two_ways_is_not_kept(sut: Trial, content: bytes) -> None:
    async with sut.runtime.http_client("openai", identity=ACME, transport=sut.network) as http:
        answer = await http.post(
            "http://provider/v1/chat/completions",
            content=content,
            headers={"content-type": "application/json"},
        )
    assert answer.headers["cache-status"] == "CachePolicy; fwd=bypass; detail=body"
