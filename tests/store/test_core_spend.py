"""Limits on tokens and on models, over replicas of the reference Core and a real server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from tests.replicas import CACHES, Replica, Site, bearer, limit
from tests.servers import Server

from cachepolicy import Duration
from cachepolicy_runtime import standin
from cachepolicy_runtime.usage import Usage, usage_of

TENANT = [{"type": "Tenant"}]
#: Input and output of the stand-in's answers are a few words.
SMALL: dict[str, Any] = {"max_tokens": 64}


@pytest.fixture
def site(tmp_path: Path, real_server: Server) -> Site:
    return Site(tmp_path / "site", real_server.url)


def tokens(units: int, **more: Any) -> dict[str, Any]:
    """Tokens of each tenant in an hour."""
    rates = [{"limit": units, "window": "1h"}]
    return {"rateLimits": {"tokens": {"by": TENANT, "unit": "Tokens", "rates": rates, **more}}}


def remaining(answer: httpx.Response, policy: str = "tokens") -> int:
    """What the answer says is left of a limit."""
    found = re.search(rf'"{policy}";r=(\d+)', answer.headers["ratelimit"])
    assert found is not None, answer.headers["ratelimit"]
    return int(found[1])


def spent(answer: httpx.Response) -> Usage:
    usage = usage_of(answer.json())
    assert usage is not None
    return usage


def total(*answers: httpx.Response) -> int:
    return sum(usage.input + usage.cached_input + usage.output for usage in map(spent, answers))


async def left(core: Replica, units: int, who: str = "alice") -> int:
    """What is left of ``units`` tokens now: what one more answer says, without what is set aside for itself."""
    # Asks for what no limit of a test has room for, so that nothing is counted.
    refused = await core.chat("how much is left?", who, max_tokens=10 * units, messages=HUGE)
    assert refused.status_code == 429
    return remaining(refused)


HUGE: list[Any] = [{"role": "user", "content": "word " * 20_000}]


async def test_a_tenants_tokens_hold_over_all_replicas(site: Site) -> None:
    """Whatever arrives at once: the answers that were given cost no more than the limit, and exactly what they
    cost is counted."""
    units = 900
    site.apply(tokens(units))
    async with site.replicas() as replicas:
        got = await asyncio.gather(
            *(replicas[number % 2].chat(f"question {number}", **SMALL) for number in range(40))
        )
        given = [answer for answer in got if answer.status_code == 200]
        refused = [answer for answer in got if answer.status_code == 429]
        assert given
        assert refused
        assert len(given) + len(refused) == 40
        assert total(*given) <= units
        assert await left(replicas[1], units) == units - total(*given)
        other = await replicas[0].chat("another tenant", who="eve", **SMALL)
    assert other.status_code == 200
    assert (await site.counts())["chat"] == len(given) + 1


async def test_what_was_set_aside_comes_back_when_the_answer_is_short(site: Site) -> None:
    """One after the other far more fit than their bounds would allow."""
    units = 900
    site.apply(tokens(units))
    async with site.replicas(1) as (core,):
        got = [await core.chat(f"question {number}", max_tokens=400) for number in range(12)]
        assert {answer.status_code for answer in got} == {200}
        assert await left(core, units) == units - total(*got)


async def test_a_bound_above_the_whole_limit_is_no_reason_to_refuse(site: Site) -> None:
    """max_tokens is a bound: the call waits for a whole window, and an input that can never fit is refused."""
    site.apply(tokens(500))
    async with site.replicas(1) as (core,):
        assert (await core.chat("Hi", max_tokens=32_000)).status_code == 200
        assert (await core.chat("Hi again", max_tokens=32_000)).status_code == 429
        assert (await core.chat("Hi again", max_tokens=32)).status_code == 200
        assert (await core.chat(messages=HUGE)).status_code == 429


async def test_hits_cost_nothing_and_embeddings_cost_what_is_new(site: Site) -> None:
    units = 10_000
    site.apply(CACHES, tokens(units))
    async with site.replicas() as (first, second):
        answer = await first.chat("Hi", **SMALL)
        assert "hit" in (await second.chat("Hi", **SMALL)).headers["cache-status"]
        assert "ratelimit" not in (await second.chat("Hi", **SMALL)).headers
        assert await left(first, units) == units - total(answer)
        await first.embed(["one two three", "four"])
        await second.embed(["four", "five six"])
        assert await left(first, units) == units - total(answer) - 6


async def test_a_failure_of_the_provider_costs_nothing(site: Site) -> None:
    """An error that it answers, and one that it does not."""
    units = 1000
    site.apply(tokens(units))
    async with site.replicas(1) as (core,):
        for knob in ("status=500", "status=429, retry-after=9"):
            failed = await core.chat("Hi", metadata={"standin": knob})
            assert failed.status_code >= 429
            assert "standin" not in failed.text
        assert await left(core, units) == units
        # The provider's own 429 is told from ours by what it says.
        assert failed.headers["retry-after"] == "9"


async def test_a_refusal_gives_back_what_was_admitted(site: Site) -> None:
    """A request that no provider saw is not counted, under any limit."""
    both = {"rateLimits": {**limit(5)["rateLimits"], **tokens(300)["rateLimits"]}}
    site.apply(both)
    async with site.replicas() as (first, second):
        refused = [await (first, second)[number % 2].chat(messages=HUGE) for number in range(8)]
        assert {answer.status_code for answer in refused} == {429}
        assert {answer.json()["violated-policies"][0] for answer in refused} == {"tokens"}
        answer = await first.chat("Hi", **SMALL)
    assert answer.status_code == 200
    assert remaining(answer, "per-user") == 4


async def test_a_limit_by_model_counts_each_model_by_itself(site: Site) -> None:
    """Requests that a provider is asked for; match.models chooses which."""
    by = [{"type": "Tenant"}, {"type": "Model"}]
    rule = {"by": by, "rates": [{"limit": 2, "window": "1h"}], "match": {"models": ["gpt-*"]}}
    site.apply(CACHES, {"rateLimits": {"each": rule}})
    async with site.replicas() as (first, second):

        async def status(number: int, model: str) -> int:
            core = (first, second)[number % 2]
            return (await core.chat(f"question {number}", model=model)).status_code

        assert [await status(number, "gpt-x") for number in range(3)] == [200, 200, 429]
        assert [await status(number, "gpt-y") for number in range(3)] == [200, 200, 429]
        assert [await status(number, "other") for number in range(3)] == [200, 200, 200]
        hit = await second.chat("question 0", model="gpt-x")
    assert "hit" in hit.headers["cache-status"]


async def test_calls_of_a_model_under_way_are_counted_until_they_end(site: Site) -> None:
    """However they end: answered, failed, or as a stream."""
    by = [{"type": "Tenant"}, {"type": "Model"}]
    site.provider = standin.create_app(Duration.parse("200ms"))
    site.apply({"rateLimits": {"parallel": {"by": by, "unit": "Concurrency", "limit": 1}}})
    async with site.replicas() as (first, second):
        for more in ({}, {"metadata": {"standin": "status=500"}}, {"stream": True}):
            got = await asyncio.gather(first.chat("one", **more), second.chat("two", **more))
            statuses = sorted(answer.status_code for answer in got)
            assert statuses[1 if statuses[0] == 200 else 0] == 429
        assert (await second.chat("three")).status_code == 200


async def test_weights_say_what_a_token_costs(site: Site) -> None:
    """Output four times as much, what the provider had cached a tenth."""
    units = 2000
    site.apply(tokens(units, weights={"input": 1, "cachedInput": "0.1", "output": 4}))
    async with site.replicas(1) as (core,):
        answer = await core.chat("one two three", metadata={"standin": "cached=3"}, **SMALL)
        usage = spent(answer)
        assert usage.cached_input == 3
        expected = -(-(10 * usage.input + usage.cached_input + 40 * usage.output) // 10)
        assert await left(core, units) == units - expected


async def test_a_shadow_limit_counts_and_refuses_nothing(site: Site) -> None:
    """The first has the whole limit to itself; the others would have been refused."""
    site.apply(tokens(10, mode="Shadow"))
    async with site.replicas(1) as (core,):
        assert {(await core.chat("Hi", **SMALL)).status_code for _ in range(3)} == {200}
        stats = await core.stats()
    assert stats["limits"]["shadowRefusedBy"] == {"tokens": 2}


# --- streams ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asks", [{}, {"stream_options": {"include_usage": True}}], ids=["silent", "asks"])
async def test_a_stream_costs_its_usage_and_shows_it_only_who_asked(
    site: Site, asks: Mapping[str, Any]
) -> None:
    units = 1000
    site.apply(tokens(units))
    async with site.replicas(1) as (core,):
        whole = await core.chat("Hi", **SMALL)
        streamed = await core.chat("Hi", stream=True, **SMALL, **asks)
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert remaining(streamed) < units
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert ('"choices":[],"usage"' in streamed.text) == bool(asks)
        assert await left(core, units) == units - 2 * total(whole)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_the_other_apis_tell_the_usage_of_streams_by_themselves(site: Site, path: str) -> None:
    units = 1000
    site.apply(tokens(units))
    said = [{"role": "user", "content": "Hi"}]
    body = {"model": "m", "messages": said, "input": said, "max_tokens": 64, "max_output_tokens": 64}
    body.pop("input" if path == "/v1/messages" else "messages")
    async with site.replicas(1) as (core,):
        whole = await core.http.post(path, json=body, headers=bearer("alice"))
        streamed = await core.http.post(path, json={**body, "stream": True}, headers=bearer("alice"))
        assert "stream_options" not in streamed.text
        assert await left(core, units) == units - 2 * total(whole)


async def test_a_stream_without_usage_costs_what_came(site: Site) -> None:
    """Cut off by the provider, or by one that never tells."""
    units = 1000
    site.apply(tokens(units))
    async with site.replicas(1) as (core,):
        before = units
        for knob in ("usage=none", "cut=8"):
            await core.chat("Hi", stream=True, metadata={"standin": knob}, **SMALL)
            now = await left(core, units)
            assert 5 <= before - now <= 60
            before = now


# --- what a caller is told --------------------------------------------------------------------------------


async def test_both_clients_raise_their_own_error(site: Site) -> None:
    """With how long to wait and what is left."""
    site.apply(tokens(20))
    http = {"transport": httpx2.ASGITransport}
    said: list[Any] = [{"role": "user", "content": "Hi"}]
    async with site.replicas(1) as (core,):
        first = httpx2.AsyncClient(transport=http["transport"](core.app))
        async with openai.AsyncOpenAI(
            api_key="alice", base_url="https://core/v1", http_client=first, max_retries=0
        ) as client:
            await client.chat.completions.create(model="gpt-x", messages=said, max_tokens=64)
            with pytest.raises(openai.RateLimitError, match="No room in tokens") as refused:
                await client.chat.completions.create(model="gpt-x", messages=said, max_tokens=64)
        second = httpx2.AsyncClient(transport=http["transport"](core.app))
        async with anthropic.AsyncAnthropic(
            api_key="alice", base_url="https://core", http_client=second, max_retries=0
        ) as other:
            with pytest.raises(anthropic.RateLimitError, match="No room in tokens") as also:
                await other.messages.create(model="claude-x", messages=said, max_tokens=64)
    assert refused.value.code == "rate_limit_exceeded"
    assert also.value.type == "rate_limit_error"
    for error in (refused.value, also.value):
        assert int(error.response.headers["retry-after"]) > 0
        assert '"tokens";q=20;qu="tokens";w=3600' in error.response.headers["ratelimit-policy"]


@pytest.mark.parametrize(("mode", "status"), [("Deny", 503), ("Allow", 200), ("Local", 200)])
async def test_without_the_store_each_limit_does_what_it_says(tmp_path: Path, mode: str, status: int) -> None:
    """Local counts in the process: what one replica may spend is its share."""
    site = Site(tmp_path / "site", "redis://127.0.0.1:1")
    site.apply(tokens(200, onStoreFailure=mode))
    async with site.replica("core-0") as core:
        got = [await core.chat(f"question {number}", **SMALL) for number in range(12)]
    assert got[0].status_code == status
    assert got[-1].status_code == (429 if mode == "Local" else status)
    if mode == "Local":
        assert total(*(answer for answer in got if answer.status_code == 200)) <= 200
