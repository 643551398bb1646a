"""Which answers of a provider are complete enough to be stored. Pure.

A truncated answer, an apology or an error that is cached stays wrong for as long as it lives, so everything
that is not recognised as a complete answer is refused. Four shapes are known: OpenAI chat completions,
OpenAI completions, OpenAI responses and Anthropic messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cachepolicy.response_cache import Cacheable, ToolCalls
from cachepolicy_runtime.credential_rules import credential_in

#: How the responses API says "stop".
_COMPLETED = "completed"
#: How an answer ends that waits for the result of a tool.
_TOOL_REASONS = frozenset({"tool_calls", "function_call", "tool_use"})
#: What differs between two answers that say the same.
_CHANCE = frozenset({"id", "call_id", "created", "created_at", "annotations", "logprobs"})


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

    @property
    def failed(self) -> bool:
        """The provider could not answer now: it is overloaded, limits us or broke."""
        return self.status == 429 or self.status >= 500


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
    if not isinstance(body, dict):
        return "unknown-shape"
    return _Judge(rules).refusal(body) or ("credential" if credential_in(answer.body) else None)


def said(body: bytes) -> Any:
    """What an answer says, without ids and times, so that two answers can be compared; None where it has no shape."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(parsed, dict):
        return None
    content = parsed.get("choices") or parsed.get("output") or parsed.get("content")
    return _without_chance(content)


def _without_chance(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_chance(item) for key, item in value.items() if key not in _CHANCE}
    if isinstance(value, list):
        return [_without_chance(item) for item in value]
    return value


class _Judge:
    """The rules, asked about one body. Every method returns a word of refusal or None."""

    def __init__(self, rules: Cacheable) -> None:
        self._tools = rules.tool_calls is ToolCalls.ALLOW
        self._reasons = frozenset(rules.finish_reasons)

    def refusal(self, body: dict[str, Any]) -> str | None:
        if body.get("error"):
            return "error"
        if isinstance(body.get("choices"), list):
            return self._choices(body)
        if body.get("object") == "response":
            return self._response(body)
        if body.get("type") == "message":
            return self._message(body)
        return "unknown-shape"

    # --- OpenAI chat completions and completions ------------------------------------------------------------

    def _choices(self, body: dict[str, Any]) -> str | None:
        if not body["choices"]:
            return "empty"
        for choice in body["choices"]:
            found = self._choice(choice)
            if found:
                return found
        return _usage(body, "prompt_tokens", "completion_tokens")

    def _choice(self, choice: Any) -> str | None:
        if not isinstance(choice, dict):
            return "unknown-shape"
        reason = choice.get("finish_reason")
        if "message" not in choice:  # completions
            return self._finish(reason) or _text(choice.get("text"))
        message = choice["message"]
        if not isinstance(message, dict):
            return "unknown-shape"
        if message.get("refusal"):
            return "refusal"
        if message.get("tool_calls") or message.get("function_call"):
            return self._finish(reason, tool=True) if self._tools else "tool-calls"
        return self._finish(reason) or _text(message.get("content"))

    # --- OpenAI responses -----------------------------------------------------------------------------------

    def _response(self, body: dict[str, Any]) -> str | None:
        if body.get("status") != _COMPLETED or body.get("incomplete_details"):
            return "incomplete"
        if not self._reasons & {_COMPLETED, "stop"}:
            return "finish-reason"
        return self._items(body.get("output")) or _usage(body, "input_tokens", "output_tokens")

    def _items(self, output: Any) -> str | None:
        """Reasoning and messages; everything else in an output is a call of some tool."""
        if not isinstance(output, list):
            return "unknown-shape"
        parts: list[Any] = []
        called = False
        for item in output:
            kind = item.get("type") if isinstance(item, dict) else None
            if kind == "message" and isinstance(item.get("content"), list):
                parts += item["content"]
            elif kind != "reasoning":
                called = True
                if not (self._tools and isinstance(kind, str) and kind.endswith("_call")):
                    return "tool-calls"
        if any(not isinstance(part, dict) or part.get("type") != "output_text" for part in parts):
            return "refusal"
        return None if called else _text("".join(str(part.get("text") or "") for part in parts))

    # --- Anthropic messages ---------------------------------------------------------------------------------

    def _message(self, body: dict[str, Any]) -> str | None:
        content = body.get("content")
        if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
            return "unknown-shape"
        others = {block.get("type") for block in content} - {"text", "thinking", "redacted_thinking"}
        if others and not (self._tools and all(_of_a_tool(kind) for kind in others)):
            return "tool-calls"
        texts = (str(block.get("text") or "") for block in content if block.get("type") == "text")
        return (
            self._finish(body.get("stop_reason"), tool=bool(others))
            or (None if others else _text("".join(texts)))
            or _usage(body, "input_tokens", "output_tokens")
        )

    def _finish(self, reason: Any, *, tool: bool = False) -> str | None:
        fine = isinstance(reason, str) and (reason in self._reasons or (tool and reason in _TOOL_REASONS))
        return None if fine else "finish-reason"


def _of_a_tool(kind: Any) -> bool:
    return isinstance(kind, str) and kind.endswith(("tool_use", "_tool_result"))


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
