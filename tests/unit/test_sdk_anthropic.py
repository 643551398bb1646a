"""The official SDK of Anthropic above the runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anthropic
import pytest
from tests.clients import GLOBEX, HI, Trial, trial


@pytest.fixture
async def sut() -> AsyncIterator[Trial]:
    async with trial() as made:
        yield made


async def test_the_same_message_is_answered_once_by_the_provider(sut: Trial) -> None:
    client = sut.anthropic()
    first = await client.messages.create(model="claude-x", max_tokens=64, messages=HI)
    raw = await client.messages.with_raw_response.create(model="claude-x", max_tokens=64, messages=HI)
    assert await raw.parse() == first
    assert first.stop_reason == "end_turn"
    assert raw.headers["cache-status"].startswith("CachePolicy; hit; ttl=")
    await sut.anthropic(GLOBEX).messages.create(model="claude-x", max_tokens=64, messages=HI)
    assert await sut.asked("messages") == 2


async def test_another_beta_is_another_answer(sut: Trial) -> None:
    client = sut.anthropic()
    for beta in ("one-2026", "two-2026", "one-2026"):
        await client.messages.create(
            model="claude-x", max_tokens=64, messages=HI, extra_headers={"anthropic-beta": beta}
        )
    assert await sut.asked("messages") == 2


async def test_a_stream_passes_event_by_event_and_is_never_kept(sut: Trial) -> None:
    client = sut.anthropic()
    texts = []
    for _ in range(2):
        async with client.messages.stream(model="claude-x", max_tokens=64, messages=HI) as stream:
            texts.append("".join([text async for text in stream.text_stream]))
            final = await stream.get_final_message()
    assert texts[0] == texts[1] == "".join(block.text for block in final.content if block.type == "text")
    assert await sut.asked("streams") == 2


async def test_a_call_of_a_tool_is_not_kept_by_default(sut: Trial) -> None:
    client = sut.anthropic()
    for _ in range(2):
        answer = await client.messages.create(
            model="claude-x", max_tokens=64, messages=HI, extra_headers={"x-standin": "tool=weather"}
        )
        assert [block.type for block in answer.content] == ["tool_use"]
    assert await sut.asked("messages") == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (429, anthropic.RateLimitError),
        (529, anthropic.InternalServerError),
    ],
)
async def test_errors_of_the_provider_are_the_sdks_own(
    sut: Trial, status: int, error: type[anthropic.APIStatusError]
) -> None:
    client = sut.anthropic(max_retries=0)
    with pytest.raises(error) as caught:
        await client.messages.create(
            model="claude-x", max_tokens=64, messages=HI, extra_headers={"x-standin": f"status={status}"}
        )
    assert caught.value.status_code == status


async def test_what_looks_like_a_message_elsewhere_is_not_one(sut: Trial) -> None:
    """Batches and token counts pass as they are."""
    client = sut.anthropic(max_retries=0)
    with pytest.raises(anthropic.NotFoundError) as caught:
        await client.messages.count_tokens(model="claude-x", messages=HI)
    assert "cache-status" not in caught.value.response.headers
