"""Anthropic's messages, whole and as events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cachepolicy_runtime.standin.saying import Said

Event = dict[str, Any]


def message(said: Said) -> dict[str, Any]:
    return {
        **_begun(said),
        "content": [{**_block(said), **_filled(said)}],
        "stop_reason": _reason(said),
        "usage": _usage(said, len(said.words)) if said.told else None,
    }


def message_events(said: Said, _: Mapping[str, Any]) -> Iterator[Event]:
    usage = {"usage": _usage(said, 1)} if said.told else {}
    yield {"type": "message_start", "message": {**_begun(said), **usage}}
    yield {"type": "content_block_start", "index": 0, "content_block": _block(said)}
    yield {"type": "ping"}
    for delta in _deltas(said):
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    ended = {"stop_reason": _reason(said), "stop_sequence": None}
    usage = {"usage": {"output_tokens": len(said.words)}} if said.told else {}
    yield {"type": "message_delta", "delta": ended, **usage}
    yield {"type": "message_stop"}


def error(status: int, text: str) -> dict[str, Any]:
    """An error as Anthropic's API puts it."""
    kinds = {
        400: "invalid_request_error",
        401: "authentication_error",
        429: "rate_limit_error",
        529: "overloaded_error",
    }
    return {"type": "error", "error": {"type": kinds.get(status, "api_error"), "message": text}}


def _begun(said: Said) -> dict[str, Any]:
    return {
        "id": f"msg_{said.digest}",
        "type": "message",
        "role": "assistant",
        "model": said.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _block(said: Said) -> dict[str, Any]:
    if said.tool:
        return {"type": "tool_use", "id": f"toolu_{said.digest}", "name": said.tool, "input": {}}
    return {"type": "text", "text": ""}


def _filled(said: Said) -> dict[str, Any]:
    return {"input": {"place": "here"}} if said.tool else {"text": said.text}


def _deltas(said: Said) -> Iterator[Event]:
    if said.tool:
        yield {"type": "input_json_delta", "partial_json": said.arguments}
        return
    for piece in said.pieces:
        yield {"type": "text_delta", "text": piece}


def _reason(said: Said) -> str:
    return "tool_use" if said.tool else "max_tokens" if said.cut else "end_turn"


def _usage(said: Said, given: int) -> dict[str, Any]:
    return {
        "input_tokens": said.read - said.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": said.cached,
        "output_tokens": given,
    }
