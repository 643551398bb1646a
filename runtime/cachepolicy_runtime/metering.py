"""Reads what a streamed answer costs while it passes, event by event.

OpenAI tells the usage of a stream only where it is asked to (``stream_options.include_usage``), in one more chunk
before ``[DONE]``. A caller that did not ask must not see that chunk: clients read ``choices[0]`` of every chunk.
Anthropic tells it in ``message_start`` and ``message_delta``, the responses API in its last event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from cachepolicy_runtime.estimate import text_size, tokens_in
from cachepolicy_runtime.events import EventSplitter, data_of
from cachepolicy_runtime.usage import Usage, usage_from

#: The last event of the responses API repeats the whole answer.
MAX_EVENT_BYTES = 16 * 1024 * 1024
#: Where the APIs put generated text in a ``delta``: text, arguments of a tool, reasoning.
_TEXTS = frozenset(
    {
        "arguments",
        "content",
        "partial_json",
        "reasoning",
        "reasoning_content",
        "refusal",
        "text",
        "thinking",
    }
)


def usage_asked(body: Mapping[str, Any]) -> bool:
    """Whether the caller of an OpenAI-shaped stream wants to see its usage."""
    options = body.get("stream_options")
    return isinstance(options, Mapping) and bool(options.get("include_usage"))


def asking_for_usage(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same request, whose stream will tell its usage."""
    options = body.get("stream_options")
    kept = options if isinstance(options, Mapping) else {}
    return {**body, "stream_options": {**kept, "include_usage": True}}


class Meter:
    """Follows one stream. ``hide`` leaves out the chunk that holds nothing but the usage.

    ``usage`` is what the provider told so far, None before it told anything; ``whole`` whether that counts all of
    the answer: what Anthropic tells at the beginning does not.
    """

    def __init__(self, *, hide: bool = False) -> None:
        self._hide = hide
        self._splitter = EventSplitter(MAX_EVENT_BYTES)
        self._told: dict[str, Any] = {}
        self._text_bytes = 0
        self.whole = False

    @property
    def usage(self) -> Usage | None:
        return usage_from(self._told)

    @property
    def streamed(self) -> int:
        """Output tokens that passed, guessed from the length of their text."""
        return tokens_in(self._text_bytes)

    def feed(self, chunk: bytes) -> bytes:
        """What the caller gets of ``chunk``: the chunk itself, or whole events where one may have to be left out."""
        seen = [event for event in self._splitter.feed(chunk) if not self._read(event)]
        return b"".join(seen) if self._hide else chunk

    def end(self) -> bytes:
        """What the caller still gets when the stream is over: an event that was cut off, as it came."""
        rest = self._splitter.rest()
        hidden = self._read(rest)
        return rest if self._hide and not hidden else b""

    def _read(self, event: bytes) -> bool:
        """Take what the event tells; whether it is to be left out."""
        data = data_of(event)
        if not data.startswith(b"{"):
            return False
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            return False
        self._text_bytes += sum(map(_text_bytes, _deltas(body)))
        told = _usage_in(body)
        if told is None:
            return False
        self.whole = self.whole or "message" not in body
        self._told |= {name: value for name, value in told.items() if value is not None}
        return self._hide and body.get("choices") == []


def _usage_in(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The usage object: of the chunk, of Anthropic's first event, of the last one of the responses API."""
    for holder in (event, event.get("message"), event.get("response")):
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            return usage
    return None


def _deltas(event: Mapping[str, Any]) -> list[Any]:
    """The parts of an event that hold new text."""
    choices = event.get("choices")
    if isinstance(choices, list):
        return [choice.get("delta", choice) for choice in choices if isinstance(choice, dict)]
    return [event.get("delta")]


def _text_bytes(delta: Any) -> int:
    if isinstance(delta, str):  # responses API
        return text_size(delta)
    size = 0
    for name, value in delta.items() if isinstance(delta, dict) else ():
        if name in _TEXTS and isinstance(value, str):
            size += text_size(value)
        elif name == "tool_calls" and isinstance(value, list):
            size += sum(_text_bytes(call.get("function")) for call in value if isinstance(call, dict))
        elif name == "function_call":
            size += _text_bytes(value)
    return size
