"""Only a complete answer may be stored, whichever provider's shape it has."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from tests.caches import answer, chat_body

from cachepolicy import Quantity
from cachepolicy.response_cache import Cacheable
from cachepolicy_runtime.answers import Answer, refusal

RULES = Cacheable()


def completion(**changes: Any) -> dict[str, Any]:
    choice = {"text": "Hello.", "finish_reason": "stop", **changes}
    return {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


def response(*items: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "object": "response",
        "status": "completed",
        "output": list(items) or [output("Hello.")],
        "usage": {"input_tokens": 1, "output_tokens": 1},
        **changes,
    }


def output(text: str, kind: str = "output_text") -> dict[str, Any]:
    return {"type": "message", "content": [{"type": kind, "text": text}]}


def message(*blocks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "content": list(blocks) or [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 0, "output_tokens": 1},
        **changes,
    }


@pytest.mark.parametrize(
    "body",
    [
        chat_body(),
        completion(),
        response(),
        response({"type": "reasoning", "summary": []}, output("Hello.")),
        message(),
        message({"type": "thinking", "thinking": "…"}, {"type": "text", "text": "Hello."}),
    ],
    ids=["chat", "completion", "response", "response with reasoning", "message", "message with thinking"],
)
def test_complete_answers_may_be_stored(body: dict[str, Any]) -> None:
    """All four shapes."""
    assert refusal(answer(body), RULES) is None


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (chat_body(finish_reason="length"), "finish-reason"),
        (chat_body(finish_reason="content_filter"), "finish-reason"),
        (chat_body(finish_reason=None), "finish-reason"),
        (chat_body(text=""), "empty"),
        (chat_body(text=" \n"), "empty"),
        (chat_body(message={"content": "x", "tool_calls": [{"id": "1"}]}), "tool-calls"),
        (chat_body(message={"content": "x", "function_call": {"name": "f"}}), "tool-calls"),
        (chat_body(message={"content": "x", "refusal": "I cannot"}), "refusal"),
        (chat_body(message=None), "unknown-shape"),
        ({**chat_body(), "choices": []}, "empty"),
        ({**chat_body(), "choices": ["x"]}, "unknown-shape"),
        ({**chat_body(), "choices": [*chat_body()["choices"], *chat_body(text="")["choices"]]}, "empty"),
        ({**chat_body(), "usage": None}, "usage"),
        ({**chat_body(), "usage": {"prompt_tokens": 3}}, "usage"),
        ({**chat_body(), "usage": {"prompt_tokens": 3, "completion_tokens": 0}}, "usage"),
        ({**chat_body(), "error": {"message": "overloaded"}}, "error"),
        (completion(finish_reason="length"), "finish-reason"),
        (completion(text=""), "empty"),
        (response(status="incomplete"), "incomplete"),
        (response(status="queued"), "incomplete"),
        (response(incomplete_details={"reason": "max_output_tokens"}), "incomplete"),
        (response({"type": "function_call", "name": "f"}), "tool-calls"),
        (response({"type": "web_search_call"}, output("x")), "tool-calls"),
        (response(output("I cannot", kind="refusal")), "refusal"),
        (response(output("")), "empty"),
        (response(output=None), "unknown-shape"),
        (response(usage=None), "usage"),
        (message(stop_reason="max_tokens"), "finish-reason"),
        (message({"type": "text", "text": "x"}, {"type": "tool_use", "name": "f"}), "tool-calls"),
        (message({"type": "text", "text": ""}), "empty"),
        (message(content="x"), "unknown-shape"),
        (message(usage={"input_tokens": 1}), "usage"),
        ({"data": []}, "unknown-shape"),
        ({}, "unknown-shape"),
    ],
)
def test_incomplete_answers_are_refused(body: dict[str, Any], why: str) -> None:
    """Truncated, empty, refused, with tool calls, without usage, or of a shape that nobody knows."""
    assert refusal(answer(body), RULES) == why


@pytest.mark.parametrize("status", [201, 204, 400, 429, 500, 503])
def test_only_status_200_is_stored(status: int) -> None:
    """An error that is cached stays one."""
    assert refusal(answer(chat_body(), status), RULES) == "status"


def test_only_json_is_stored() -> None:
    """Neither an event stream nor a page of a proxy."""
    assert refusal(answer(chat_body(), content_type="text/event-stream"), RULES) == "content-type"
    assert refusal(answer(chat_body(), content_type="application/json; x=é"), RULES) == "content-type"
    assert refusal(Answer(200, b"<html>", {"content-type": "application/json"}), RULES) == "not-json"
    assert refusal(Answer(200, b"[1]", {"content-type": "application/json"}), RULES) == "unknown-shape"


def test_the_policy_names_reasons_and_size() -> None:
    """finishReasons and maxEntryBytes come from the policy; the size is exact."""
    body = orjson.dumps(chat_body(finish_reason="done"))
    fits = Cacheable(finish_reasons=("done",), max_entry_bytes=Quantity.parse(len(body)))
    smaller = Cacheable(finish_reasons=("done",), max_entry_bytes=Quantity.parse(len(body) - 1))
    assert refusal(Answer(200, body), fits) is None
    assert refusal(Answer(200, body), smaller) == "too-large"


def test_a_response_counts_as_stopped_only_where_stop_is_allowed() -> None:
    """The responses API has a status where the others have a finish reason."""
    assert refusal(answer(response()), Cacheable(finish_reasons=("end_turn",))) == "finish-reason"
    assert refusal(answer(response()), Cacheable(finish_reasons=("completed",))) is None
