"""The reference Core as the official clients of OpenAI and Anthropic see it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from fastapi import FastAPI, Request, Response
from tests.replicas import ADMIN_TOKEN, CACHES, Replica, Site, bearer, chat, limit
from tests.servers import Server

from cachepolicy import Duration
from cachepolicy_runtime import gateway, standin

HI: list[Any] = [{"role": "user", "content": "Hi"}]
ASKED: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"model": "gpt-x", "messages": HI},
    "/v1/completions": {"model": "gpt-x", "prompt": "Hi"},
    "/v1/responses": {"model": "gpt-x", "input": "Hi"},
    "/v1/messages": {"model": "claude-x", "messages": HI, "max_tokens": 64},
}
NAMES = {"/v1/chat/completions": "chat", "/v1/completions": "completions"} | {
    path: path.removeprefix("/v1/") for path in ("/v1/responses", "/v1/messages")
}


@pytest.fixture
def site(tmp_path: Path, valkey: Server) -> Site:
    return Site(tmp_path / "site", valkey.url)


def openai_client(core: Replica, key: str = "alice") -> openai.AsyncOpenAI:
    transport = httpx2.ASGITransport(core.app)
    http = httpx2.AsyncClient(transport=transport)
    return openai.AsyncOpenAI(api_key=key, base_url="https://core/v1", http_client=http, max_retries=0)


def anthropic_client(core: Replica, key: str = "alice") -> anthropic.AsyncAnthropic:
    transport = httpx2.ASGITransport(core.app)
    http = httpx2.AsyncClient(transport=transport)
    return anthropic.AsyncAnthropic(api_key=key, base_url="https://core", http_client=http, max_retries=0)


# --- what is asked ----------------------------------------------------------------------------------------


async def test_openais_client_gets_every_answer_and_every_stream(site: Site) -> None:
    """Chat, completions, responses, embeddings, models."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,), openai_client(core) as client:
        text = (await client.chat.completions.create(model="gpt-x", messages=HI)).choices[0].message.content
        completion = await client.completions.create(model="gpt-x", prompt="Hi")
        response = await client.responses.create(model="gpt-x", input="Hi")
        assert text == completion.choices[0].text == response.output_text != ""
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(model="gpt-x", messages=HI, stream=True)
        ]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
        events = [
            event async for event in await client.responses.create(model="gpt-x", input="Hi", stream=True)
        ]
        assert events[-1].type == "response.completed"
        vectors = await client.embeddings.create(model="embed-x", input=["a", "b"], dimensions=8)
        assert vectors.data[1].embedding == pytest.approx(standin.vector("b", 8))
        assert [model.id async for model in client.models.list()] == ["stand-in"]


async def test_anthropics_client_gets_its_answers(site: Site) -> None:
    """Whole and streamed, from its own path."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,), anthropic_client(core) as client:
        message = await client.messages.create(model="claude-x", messages=HI, max_tokens=64)
        assert message.usage.output_tokens > 0
        async with client.messages.stream(model="claude-x", messages=HI, max_tokens=64) as stream:
            final = await stream.get_final_message()
    assert [block.text for block in final.content if block.type == "text"] == [
        block.text for block in message.content if block.type == "text"
    ]
    assert final.usage.output_tokens == message.usage.output_tokens


@pytest.mark.parametrize("path", ASKED)
async def test_every_api_is_cached_for_the_tenant(site: Site, path: str) -> None:
    """The second time it is a hit, whichever header brought the key; another tenant's is not."""
    site.apply(CACHES)
    async with site.replicas() as (first, second):
        asked = [
            await first.http.post(path, json=ASKED[path], headers=bearer("alice")),
            await second.http.post(path, json=ASKED[path], headers={"x-api-key": "bob"}),
            await second.http.post(path, json=ASKED[path], headers={"x-api-key": "eve"}),
        ]
    assert [answer.status_code for answer in asked] == [200, 200, 200]
    assert ["hit" in answer.headers["cache-status"] for answer in asked] == [False, True, False]
    assert asked[0].content == asked[1].content
    assert (await site.counts())[NAMES[path]] == 2


async def test_tokens_and_base64_are_cached_as_texts_are(site: Site) -> None:
    """One list of tokens, several, and the same vectors in either encoding."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        await core.embed([[1, 2], [3]], dimensions=8)
        one = await core.embed([3], dimensions=8, encoding_format="base64")
        assert "hit" in one.headers["cache-status"]
        numbers = await core.embed([1, 2], dimensions=8)
    assert numbers.json()["data"][0]["embedding"] == pytest.approx(standin.vector([1, 2], 8))
    assert (await site.counts())["texts"] == 2


# --- what the provider gets -------------------------------------------------------------------------------


def recorder(seen: list[Request]) -> FastAPI:
    """A provider that takes down what it gets."""
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def answer(request: Request) -> Response:
        seen.append(request)
        return Response(b'{"data": []}', media_type="application/json", headers={"x-request-id": "req-1"})

    return app


async def test_the_provider_gets_this_services_credential_and_no_other_header(
    site: Site, tmp_path: Path
) -> None:
    """Each in its own way; versions and betas are the caller's, an account is not."""
    site.apply(CACHES)
    for name in ("openai", "anthropic"):
        (tmp_path / name).write_text(f"key-of-{name}")
    keys = {
        "CACHEPOLICY_UPSTREAM_API_KEY_FILE": str(tmp_path / "openai"),
        "CACHEPOLICY_ANTHROPIC_API_KEY_FILE": str(tmp_path / "anthropic"),
    }
    seen: list[Request] = []
    site.provider = recorder(seen)
    given = {"openai-organization": "mine", "openai-beta": "b=1", "anthropic-beta": "b2", "x-tenant": "t"}
    async with site.replica("core-0", {**site.environ, **keys}) as core:
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"):
            got = await core.http.post(
                path, json=ASKED.get(path) or chat(), headers={**bearer("alice"), **given}
            )
            assert got.headers["x-request-id"] == "req-1"
        await core.http.get("/v1/models?limit=2", headers=bearer("alice"))
        await core.http.get("/v1/models", headers={**bearer("alice"), "anthropic-version": "2026-01-01"})
    openai_asked, message, count, models, anthropic_models = seen
    assert openai_asked.headers["authorization"] == "Bearer key-of-openai"
    assert openai_asked.headers["openai-beta"] == "b=1"
    for request in (message, count, anthropic_models):
        assert request.headers["x-api-key"] == "key-of-anthropic"
        assert "authorization" not in request.headers
    assert (message.headers["anthropic-version"], message.headers["anthropic-beta"]) == ("2023-06-01", "b2")
    assert anthropic_models.headers["anthropic-version"] == "2026-01-01"
    assert models.url.query == "limit=2"
    assert not any(
        "openai-organization" in request.headers or "x-tenant" in request.headers for request in seen
    )


async def test_another_version_of_the_api_is_another_answer(site: Site) -> None:
    """What changes an answer is part of its key, and the version that stands for none is the default."""
    site.apply(CACHES)
    hits = []
    async with site.replicas(1) as (core,):
        for version in ({}, {"anthropic-version": "2023-06-01"}, {"anthropic-version": "2026-01-01"}):
            body = ASKED["/v1/messages"]
            got = await core.http.post("/v1/messages", json=body, headers={**bearer("alice"), **version})
            hits.append("hit" in got.headers["cache-status"])
    assert hits == [False, True, False]


# --- errors -----------------------------------------------------------------------------------------------


async def test_openais_client_raises_its_own_errors(site: Site) -> None:
    """With a message that its users can read."""
    site.apply(CACHES, limit(2))
    async with site.replicas(1) as (core,):
        async with openai_client(core, "nobody") as stranger:
            with pytest.raises(openai.AuthenticationError, match="API key"):
                await stranger.chat.completions.create(model="gpt-x", messages=HI)
        async with openai_client(core) as client:
            with pytest.raises(openai.BadRequestError, match="model must be") as bad:
                await client.chat.completions.create(model="", messages=HI)
            with pytest.raises(openai.InternalServerError, match="asked for this error"):
                await client.chat.completions.create(
                    model="gpt-x", messages=HI, metadata={"standin": "status=500"}
                )
            with pytest.raises(openai.RateLimitError, match="No room in per-user") as limited:
                await client.chat.completions.create(model="gpt-x", messages=HI)
    assert bad.value.type == "invalid_request_error"
    assert limited.value.code == "rate_limit_exceeded"
    assert int(limited.value.response.headers["retry-after"]) > 0


async def test_anthropics_client_raises_its_own_errors(site: Site) -> None:
    site.apply(CACHES, limit(2))
    async with site.replicas(1) as (core,):
        async with anthropic_client(core, "nobody") as stranger:
            with pytest.raises(anthropic.AuthenticationError, match="API key"):
                await stranger.messages.create(model="claude-x", messages=HI, max_tokens=64)
        async with anthropic_client(core) as client:
            with pytest.raises(anthropic.BadRequestError, match="model must be") as bad:
                await client.messages.create(model="", messages=HI, max_tokens=64)
            with pytest.raises(anthropic.InternalServerError, match="asked for this error"):
                await client.messages.create(
                    model="claude-x",
                    messages=HI,
                    max_tokens=64,
                    extra_body={"metadata": {"standin": "status=529"}},
                )
            with pytest.raises(anthropic.RateLimitError, match="No room in per-user") as limited:
                await client.messages.create(model="claude-x", messages=HI, max_tokens=64)
    assert bad.value.type == "invalid_request_error"
    body = limited.value.body
    assert isinstance(body, dict)
    assert (body["type"], body["error"]["type"], body["violated-policies"]) == (
        "error",
        "rate_limit_error",
        ["per-user"],
    )


async def test_paths_of_a_provider_that_is_not_there_are_not_there(site: Site) -> None:
    """404, in the shape of the API that was meant; with neither provider there is no start."""
    site.apply(CACHES)
    both = dict(site.environ)
    del both["CACHEPOLICY_ANTHROPIC_URL"]
    async with site.replica("core-0", both) as core, anthropic_client(core) as client:
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="claude-x", messages=HI, max_tokens=64)
        assert (await core.chat()).status_code == 200
    alone = {**both, "CACHEPOLICY_ANTHROPIC_URL": "http://standin"}
    del alone["CACHEPOLICY_UPSTREAM_URL"]
    async with site.replica("core-1", alone) as core:
        assert (await core.chat()).json()["error"]["message"] == "Not Found"
        assert (await core.http.get("/v1/models", headers=bearer("alice"))).status_code == 200
    with pytest.raises(ValueError, match="CACHEPOLICY_UPSTREAM_URL or CACHEPOLICY_ANTHROPIC_URL"):
        gateway.create_app({})


# --- warming ----------------------------------------------------------------------------------------------


async def test_a_cache_is_warmed_for_those_who_will_ask(site: Site) -> None:
    """Through every cached path, as that tenant; what cannot be cached is told and asks nobody."""
    site.apply(CACHES)
    paths = {**ASKED, "/v1/embeddings": {"model": "embed-x", "input": ["a"]}}
    requests = [{"tenant": "acme", "path": path, "body": dict(body)} for path, body in paths.items()]
    useless = [
        {"tenant": "acme", "path": "/v1/models", "body": {"model": "m"}},
        {"tenant": "acme", "path": "/v1/responses", "body": {"model": "m", "input": "Hi", "stream": True}},
        {"tenant": "acme", "path": "/v1/responses", "body": {"input": "Hi"}},
        {"tenant": "acme", "path": "/v1/messages", "body": {"model": "m", "messages": HI}},
    ]
    async with site.replicas() as (first, second):
        warm = {"requests": [*requests, *useless]}
        told = (await first.http.post("/cache/warm", json=warm, headers=bearer(ADMIN_TOKEN))).json()
        assert [item["result"] for item in told["results"]] == ["stored"] * 5 + ["failed"] * 4
        for path, body in paths.items():
            got = await second.http.post(path, json=body, headers=bearer("alice"))
            assert "hit" in got.headers["cache-status"], path
        ask = {"tenant": "acme", "path": "/v1/messages", "body": ASKED["/v1/messages"]}
        explained = (await second.http.post("/cache/explain", json=ask, headers=bearer(ADMIN_TOKEN))).json()
    assert explained["result"] == "hit"
    counts = await site.counts()
    assert sum(counts[name] for name in NAMES.values()) == 4


async def test_calls_under_way_at_once_share_one_answer(site: Site) -> None:
    """The stand-in counts: over both replicas one call is made for what is asked ten times at once."""
    site.provider = standin.create_app(Duration.parse("200ms"))
    site.apply({"responseCache": {"coalesce": {}}})
    async with site.replicas() as replicas:
        got = await asyncio.gather(*(replicas[number % 2].chat() for number in range(10)))
    assert {answer.content for answer in got} == {got[0].content}
    assert (await site.counts())["chat"] == 1
