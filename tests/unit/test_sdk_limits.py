"""SDKs under limits of tokens and models: what a hit costs, and what a refusal looks like to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.clients import GLOBEX, HI, Trial, trial

from cachepolicy_runtime.clients.refusals import RETRY_WITHIN_S, refusal
from cachepolicy_runtime.ratelimit import Decision, Outcome, RateReport


def tokens(limit: int, window: str = "1h", **more: Any) -> dict[str, Any]:
    spent = {
        "by": [{"type": "Tenant"}],
        "unit": "Tokens",
        "rates": [{"limit": limit, "window": window}],
        **more,
    }
    return {"rateLimits": {"spent": spent}, "responseCache": {}, "embeddingCache": {}}


async def ask(sut: Trial, text: str, **more: Any) -> bool:
    """Whether there was room."""
    client = sut.openai(max_retries=0, **more)
    try:
        await client.chat.completions.create(
            model="gpt-x", messages=[{"role": "user", "content": text}], max_tokens=200
        )
    except openai.RateLimitError:
        return False
    return True


async def room(sut: Trial) -> int:
    """How many questions there is room for."""
    asked = 0
    while await ask(sut, f"question {asked}"):
        asked += 1
    return asked


async def test_calls_spend_tokens_and_hits_spend_none(tmp_path: Path) -> None:
    async with trial(tmp_path, tokens(1000)) as sut:
        asked = await room(sut)
        assert asked > 0
        for _ in range(3):
            assert await ask(sut, "question 0")
        assert await sut.asked() == asked


async def test_a_refusal_is_the_sdks_own_error_and_never_reaches_the_provider(tmp_path: Path) -> None:
    async with trial(tmp_path, tokens(1)) as sut:
        client = sut.openai()  # with the retries of the SDK: an hour is not waited for
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="gpt-x", messages=HI, max_tokens=20)
        with pytest.raises(anthropic.RateLimitError) as other:
            await sut.anthropic().messages.create(model="claude-x", max_tokens=20, messages=HI)
        assert (await sut.asked(), await sut.asked("messages")) == (0, 0)
    error = caught.value
    assert error.code == "rate_limit_exceeded"
    assert error.type == "rate_limit_error"
    assert "No room in spent" in error.message
    assert int(error.response.headers["retry-after"]) > RETRY_WITHIN_S
    assert error.response.headers["ratelimit-policy"].startswith('"spent";q=1;')
    assert error.response.headers["content-type"] == "application/problem+json"
    assert error.response.json()["violated-policies"] == ["spent"]
    assert other.value.response.headers["x-should-retry"] == "false"


async def test_one_tenants_tokens_are_not_anothers(tmp_path: Path) -> None:
    async with trial(tmp_path, tokens(1000)) as sut:
        await room(sut)
        assert await ask(sut, "question 0", identity=GLOBEX)


async def test_a_stream_spends_what_it_told_and_shows_no_usage_that_was_not_asked_for(tmp_path: Path) -> None:
    async with trial(tmp_path, tokens(10_000)) as sut:
        stream = await sut.openai().chat.completions.create(
            model="gpt-x", messages=HI, max_tokens=20, stream=True
        )
        chunks = [chunk async for chunk in stream]
        assert all(chunk.choices for chunk in chunks)
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        await sut.runtime.spending.aclose()
        stats = await sut.runtime.stats()
    assert stats["limits"]["spend"]["settled"] == 1


async def test_an_error_of_the_provider_costs_nothing(tmp_path: Path) -> None:
    async with trial(tmp_path, tokens(30)) as sut:
        client = sut.openai(max_retries=0)
        for _ in range(10):
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(
                    model="gpt-x", messages=HI, max_tokens=5, metadata={"standin": "status=500"}
                )
        assert (await client.chat.completions.create(model="gpt-x", messages=HI, max_tokens=5)).choices


async def test_embeddings_spend_for_what_is_missing(tmp_path: Path) -> None:
    async with trial(tmp_path, tokens(100)) as sut:
        client = sut.openai(max_retries=0)
        await client.embeddings.create(model="embed-x", input="one two three")
        with pytest.raises(openai.RateLimitError):
            await client.embeddings.create(model="embed-x", input="word " * 1000)
        assert (await client.embeddings.create(model="embed-x", input="one two three")).data


def decision(retry_ms: int) -> Decision:
    return Decision(Outcome.LIMITED, (RateReport("spent", 5, 60_000, 0, 60_000, retry_ms),))


@pytest.mark.parametrize(
    ("decided", "status", "again"),
    [
        (decision(RETRY_WITHIN_S * 1000), 429, "true"),
        (decision(RETRY_WITHIN_S * 1000 + 1), 429, "false"),
        (Decision(Outcome.UNAVAILABLE, degraded=True), 503, "true"),
    ],
)
def test_the_sdk_waits_where_that_is_short(decided: Decision, status: int, again: str) -> None:
    answer = refusal(decided)
    assert answer.status == status
    assert answer.headers["x-should-retry"] == again
    assert int(answer.headers["retry-after"]) > 0
