"""OpenAI's chat completions, completions and responses, whole and as events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cachepolicy_runtime.standin.saying import CREATED, Said

Event = dict[str, Any]


def chat(said: Said) -> dict[str, Any]:
    """A chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
    if said.tool:
        message |= {"content": None, "tool_calls": [_tool_call(said)]}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(said)}
    return {**_common(said, "chatcmpl", "chat.completion"), "choices": [choice], **_usage(said)}


def chat_events(said: Said, body: Mapping[str, Any]) -> Iterator[Event]:
    common = _common(said, "chatcmpl", "chat.completion.chunk")
    if said.tool:
        delta: dict[str, Any] = {"role": "assistant", "tool_calls": [{"index": 0, **_tool_call(said)}]}
        yield {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    for number, piece in enumerate(() if said.tool else said.pieces):
        delta = {"content": piece} if number else {"role": "assistant", "content": piece}
        yield {**common, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**common, "choices": [{"index": 0, "delta": {}, "finish_reason": _reason(said)}]}
    yield from _usage_chunk(said, body, common)


def completion(said: Said) -> dict[str, Any]:
    choice = {"index": 0, "text": said.text, "logprobs": None, "finish_reason": _reason(said)}
    return {**_common(said, "cmpl", "text_completion"), "choices": [choice], **_usage(said)}


def completion_events(said: Said, body: Mapping[str, Any]) -> Iterator[Event]:
    common = _common(said, "cmpl", "text_completion")
    for piece in said.pieces:
        yield {**common, "choices": [{"index": 0, "text": piece, "logprobs": None, "finish_reason": None}]}
    yield {
        **common,
        "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": _reason(said)}],
    }
    yield from _usage_chunk(said, body, common)


def response(said: Said) -> dict[str, Any]:
    """A finished response of the responses API."""
    state: dict[str, Any] = {"status": "completed", "incomplete_details": None}
    if said.cut:
        state = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    usage = {
        "input_tokens": said.read,
        "input_tokens_details": {"cached_tokens": said.cached},
        "output_tokens": len(said.words),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": said.read + len(said.words),
    }
    return {
        **_response(said),
        **state,
        "output": [_function_call(said) if said.tool else _output_message(said, "completed")],
        "usage": usage if said.told else None,
    }


def response_events(said: Said, _: Mapping[str, Any]) -> Iterator[Event]:
    for number, event in enumerate(_response_events(said)):
        yield {**event, "sequence_number": number}


def _response_events(said: Said) -> Iterator[Event]:
    begun = {**_response(said), "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    where: dict[str, Any] = {"output_index": 0}
    whole = response(said)
    item = whole["output"][0]
    if said.tool:
        yield {"type": "response.output_item.added", **where, "item": {**item, "arguments": ""}}
        done = {"item_id": item["id"], **where}
        yield {"type": "response.function_call_arguments.delta", **done, "delta": said.arguments}
    else:
        begun_item = {**item, "status": "in_progress", "content": []}
        yield {"type": "response.output_item.added", **where, "item": begun_item}
        part = {"item_id": item["id"], **where, "content_index": 0}
        empty = {"type": "output_text", "text": "", "annotations": []}
        yield {"type": "response.content_part.added", **part, "part": empty}
        for piece in said.pieces:
            yield {"type": "response.output_text.delta", **part, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **part, "text": said.text, "logprobs": []}
        yield {"type": "response.content_part.done", **part, "part": item["content"][0]}
    yield {"type": "response.output_item.done", **where, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}


def _response(said: Said) -> dict[str, Any]:
    return {
        "id": f"resp_{said.digest}",
        "object": "response",
        "created_at": CREATED,
        "model": said.model,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }


def _output_message(said: Said, status: str) -> dict[str, Any]:
    return {
        "id": f"msg_{said.digest}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [{"type": "output_text", "text": said.text, "annotations": []}],
    }


def _function_call(said: Said) -> dict[str, Any]:
    return {
        "id": f"fc_{said.digest}",
        "type": "function_call",
        "call_id": f"call_{said.digest}",
        "name": said.tool,
        "arguments": said.arguments,
        "status": "completed",
    }


def _tool_call(said: Said) -> dict[str, Any]:
    function = {"name": said.tool, "arguments": said.arguments}
    return {"id": f"call_{said.digest}", "type": "function", "function": function}


def _common(said: Said, prefix: str, kind: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{said.digest}", "object": kind, "created": CREATED, "model": said.model}


def _reason(said: Said) -> str:
    return "tool_calls" if said.tool else "length" if said.cut else "stop"


def _usage(said: Said) -> dict[str, Any]:
    given = len(said.words)
    usage = {
        "prompt_tokens": said.read,
        "completion_tokens": given,
        "total_tokens": said.read + given,
        "prompt_tokens_details": {"cached_tokens": said.cached},
    }
    return {"usage": usage} if said.told else {}


def _usage_chunk(said: Said, body: Mapping[str, Any], common: Mapping[str, Any]) -> Iterator[Event]:
    if said.told and (body.get("stream_options") or {}).get("include_usage"):
        yield {**common, "choices": [], **_usage(said)}
