"""What an answer cost is read from five shapes, and guessed before there is an answer."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachepolicy_runtime.estimate import DEFAULT_OUTPUT, MEDIA_TOKENS, estimate
from cachepolicy_runtime.usage import Usage, usage_from, usage_of, usage_of_json


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}, Usage(10, 0, 4)),
        (
            {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 8}},
            Usage(2, 8, 4),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(10, 0, 4)),
        ({"prompt_tokens": 7, "total_tokens": 7}, Usage(7, 0, 0)),
        (
            {
                "input_tokens": 9,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens": 3,
                "output_tokens_details": {"reasoning_tokens": 2},
            },
            Usage(5, 4, 3),
        ),
        (
            {
                "input_tokens": 9,
                "cache_creation_input_tokens": 20,
                "cache_read_input_tokens": 40,
                "output_tokens": 3,
            },
            Usage(29, 40, 3),
        ),
        (
            {
                "input_tokens": 9,
                "cache_creation_input_tokens": None,
                "cache_read_input_tokens": None,
                "output_tokens": 3,
            },
            Usage(9, 0, 3),
        ),
        ({"output_tokens": 3}, Usage(0, 0, 3)),
        (
            {"prompt_tokens": 4, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}},
            Usage(0, 4, 1),
        ),
        ({"prompt_tokens": -4, "completion_tokens": True}, Usage(0, 0, 0)),
        ({}, None),
        ({"seconds": 3}, None),
    ],
    ids=[
        "chat",
        "chat cached",
        "no details",
        "embeddings",
        "responses",
        "messages cached",
        "messages nulls",
        "delta",
        "more cached than read",
        "no counts",
        "empty",
        "unknown",
    ],
)
def test_each_token_is_counted_once(told: dict[str, Any], usage: Usage | None) -> None:
    """OpenAI's input includes what was cached, Anthropic's does not; writing a cache is reading anew."""
    assert usage_from(told) == usage
    assert usage_of({"usage": told}) == usage
    assert usage_of_json(orjson.dumps({"usage": told})) == usage


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"usage": null}', b"not json"])
def test_an_answer_without_usage_tells_none(body: bytes) -> None:
    assert usage_of_json(body) is None


def chat(text: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


@pytest.mark.parametrize(
    ("more", "output"),
    [
        ({}, DEFAULT_OUTPUT),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9, "max_tokens": 7}, 9),
        ({"max_output_tokens": 5}, 5),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": 7, "n": 2, "best_of": 5}, 35),
        ({"max_tokens": "many", "n": None}, DEFAULT_OUTPUT),
        ({"max_tokens": 0}, DEFAULT_OUTPUT),
    ],
)
def test_output_is_taken_as_far_as_its_bound_allows(more: dict[str, Any], output: int) -> None:
    """Once for each choice; without a bound that is one, the default."""
    assert estimate(chat("Hi", **more)).output == output
    assert estimate(chat("Hi", **more), generates=False).output == 0


@given(st.text(max_size=500), st.text(max_size=500))
def test_more_text_never_costs_less(text: str, more: str) -> None:
    """And a token is at most four bytes of it, so that a long request is not taken for a short one."""
    short, long = estimate(chat(text)).input, estimate(chat(text + more)).input
    assert short <= long
    assert short * 4 >= len(text.encode("utf-8", "surrogatepass"))


def test_tools_and_system_texts_are_read_by_the_model_too() -> None:
    plain = estimate(chat("Hi")).input
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    assert estimate(chat("Hi", tools=tools)).input > plain
    assert estimate(chat("Hi", system="Be brief. " * 40)).input >= plain + 100
    assert estimate(chat("Hi", metadata={"note": "n" * 4000})).input == plain


def test_an_image_is_not_taken_for_its_base64() -> None:
    """As a data URL (OpenAI) and as bare base64 (Anthropic)."""
    picture = base64.b64encode(bytes(range(256)) * 4000).decode()
    openai = chat([{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}])
    anthropic = chat([{"type": "image", "source": {"type": "base64", "data": picture}}])
    for body in (openai, anthropic):
        assert MEDIA_TOKENS <= estimate(body).input < MEDIA_TOKENS + 100


def test_a_list_of_tokens_is_as_many_tokens() -> None:
    assert estimate({"input": [5, 6, 7]}, generates=False) == Usage(3)
    assert estimate({"input": [[5, 6, 7], [8]]}, generates=False) == Usage(4)


def test_a_body_nested_as_deeply_as_the_parser_takes_is_estimated() -> None:
    assert estimate({"input": orjson.loads(b"[" * 900 + b"]" * 900)}).input == 1
