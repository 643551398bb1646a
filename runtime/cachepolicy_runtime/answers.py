"""Which answers of a provider are complete enough to be stored. Pure.

A truncated answer, an apology or an error that is cached stays wrong for as long as it lives, so everything
that is not recognised as a complete answer is refused. Four shapes are known: OpenAI chat completions,
OpenAI completions, OpenAI responses and Anthropic messages.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cachepolicy.response_cache import Cacheable

#: How the responses API says "stop".
_COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider answered: status, headers (names in any case) and the decoded body."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_type(self) -> str:
        return next(
            (value for name, value in self.headers.items() if name.lower() == "content-type"),
            "application/json",
        )


def refusal(answer: Answer, rules: Cacheable) -> str | None:
    """Why ``answer`` must not be stored, as a short word for ``Cache-Status``; None when it may be."""
    if answer.status != 200:
        return "status"
    if not answer.content_type.isascii() or not answer.content_type.lower().startswith("application/json"):
        return "content-type"
    if len(answer.body) > rules.max_entry_bytes.bytes:
        return "too-large"
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return "not-json"
    return _body_refusal(body, rules.finish_reasons) if isinstance(body, dict) else "unknown-shape"


def _body_refusal(body: dict[str, Any], reasons: Collection[str]) -> str | None:
    if body.get("error"):
        return "error"
    if isinstance(body.get("choices"), list):
        return _choices(body, reasons)
    if body.get("object") == "response":
        return _response(body, reasons)
    if body.get("type") == "message":
        return _message(body, reasons)
    return "unknown-shape"


def _choices(body: dict[str, Any], reasons: Collection[str]) -> str | None:
    if not body["choices"]:
        return "empty"
    for choice in body["choices"]:
        found = _choice(choice, reasons)
        if found:
            return found
    return _usage(body, "prompt_tokens", "completion_tokens")


def _choice(choice: Any, reasons: Collection[str]) -> str | None:
    if not isinstance(choice, dict):
        return "unknown-shape"
    if "message" not in choice:  # completions
        return _finish(choice.get("finish_reason"), reasons) or _text(choice.get("text"))
    message = choice["message"]
    if not isinstance(message, dict):
        return "unknown-shape"
    if message.get("tool_calls") or message.get("function_call"):
        return "tool-calls"
    if message.get("refusal"):
        return "refusal"
    return _finish(choice.get("finish_reason"), reasons) or _text(message.get("content"))


def _response(body: dict[str, Any], reasons: Collection[str]) -> str | None:
    if body.get("status") != _COMPLETED or body.get("incomplete_details"):
        return "incomplete"
    if _COMPLETED not in reasons and "stop" not in reasons:
        return "finish-reason"
    found = _items(body.get("output"))
    return found or _usage(body, "input_tokens", "output_tokens")


def _items(output: Any) -> str | None:
    """Reasoning and messages; everything else in an output is a call of some tool."""
    if not isinstance(output, list):
        return "unknown-shape"
    parts: list[Any] = []
    for item in output:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "message" and isinstance(item.get("content"), list):
            parts += item["content"]
        elif kind != "reasoning":
            return "tool-calls"
    if any(not isinstance(part, dict) or part.get("type") != "output_text" for part in parts):
        return "refusal"
    return _text("".join(str(part.get("text") or "") for part in parts))


def _message(body: dict[str, Any], reasons: Collection[str]) -> str | None:
    content = body.get("content")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        return "unknown-shape"
    kinds = {block.get("type") for block in content}
    if kinds - {"text", "thinking", "redacted_thinking"}:
        return "tool-calls"
    texts = (str(block.get("text") or "") for block in content if block.get("type") == "text")
    return (
        _finish(body.get("stop_reason"), reasons)
        or _text("".join(texts))
        or _usage(body, "input_tokens", "output_tokens")
    )


def _finish(reason: Any, reasons: Collection[str]) -> str | None:
    return None if reason in reasons else "finish-reason"


def _text(text: Any) -> str | None:
    return None if isinstance(text, str) and text.strip() else "empty"


def _usage(body: dict[str, Any], taken: str, given: str) -> str | None:
    """An answer without its whole usage was cut off. Input that the provider had cached may count as 0."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return "usage"
    complete = _count(usage.get(taken)) >= 0 and _count(usage.get(given)) > 0
    return None if complete else "usage"


def _count(value: Any) -> int:
    return value if isinstance(value, int) else -1
