"""What a stream costs is read while it passes; the caller sees what it asked for and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachepolicy_runtime.events import EventSplitter, data_of
from cachepolicy_runtime.metering import Meter, asking_for_usage, usage_asked
from cachepolicy_runtime.usage import Usage


def sse(*events: Any, names: bool = False) -> bytes:
    def lines(event: Any) -> Iterator[str]:
        if names:
            yield f"event: {event['type']}\n"
        yield f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n"

    return "".join(line for event in events for line in lines(event)).encode()


def delta(text: str, **more: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}], **more}


TOLD = {"prompt_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
TEXTS = sse(delta("Hello", usage=None), delta(" world", usage=None))
USAGE = sse({"object": "chat.completion.chunk", "choices": [], "usage": TOLD})
DONE = sse("[DONE]")
CHAT = TEXTS + USAGE + DONE

MESSAGES = sse(
    {
        "type": "message_start",
        "message": {"usage": {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 1}},
    },
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "input_json_delta", "partial_json": '{"a"'},
    },
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 6}},
    {"type": "message_stop"},
    names=True,
)
RESPONSES = sse(
    {"type": "response.created", "response": {"usage": None}},
    {"type": "response.output_text.delta", "delta": "Hello"},
    {
        "type": "response.completed",
        "response": {
            "usage": {
                "input_tokens": 9,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 6,
            }
        },
    },
    names=True,
)


def through(meter: Meter, chunks: Iterable[bytes]) -> bytes:
    return b"".join([*(meter.feed(chunk) for chunk in chunks), meter.end()])


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    ends = sorted({place % (len(stream) + 1) for place in places})
    return [stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True)]


@given(st.lists(st.integers(min_value=0)), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_however_the_bytes_arrive_the_usage_is_read_and_its_chunk_left_out(
    places: list[int], line_end: bytes
) -> None:
    """Chunks of a connection know nothing of events; lines end in three ways."""
    meter = Meter(hide=True)
    stream, expected = (part.replace(b"\n", line_end) for part in (CHAT, TEXTS + DONE))
    seen = through(meter, cut(stream, places))
    # An LF that arrives after "its" CR had ended the event stays behind as an empty line, which says nothing.
    assert seen.replace(b"\r", b"").replace(b"\n", b"") == expected.replace(b"\r", b"").replace(b"\n", b"")
    assert line_end != b"\n" or seen == expected
    assert meter.usage == Usage(10, 2, 5)


@pytest.mark.parametrize(
    ("stream", "usage", "text"),
    [(CHAT, Usage(10, 2, 5), 11), (MESSAGES, Usage(9, 4, 6), 9), (RESPONSES, Usage(9, 0, 6), 5)],
    ids=["chat", "messages", "responses"],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_whose_caller_sees_all_is_passed_on_byte_by_byte(
    stream: bytes, usage: Usage, text: int, size: int
) -> None:
    """Nothing waits for the end of an event, and the last count of each kind holds."""
    meter = Meter()
    for start in range(0, len(stream), size):
        chunk = stream[start : start + size]
        assert meter.feed(chunk) == chunk
    assert meter.end() == b""
    assert meter.usage == usage
    assert meter.streamed == -(-text // 4)


def test_usage_that_comes_with_text_is_not_left_out() -> None:
    """Some providers put running counts into every chunk."""
    stream = sse(delta("Hello", usage=TOLD), delta(" world", usage={**TOLD, "completion_tokens": 8})) + DONE
    meter = Meter(hide=True)
    assert through(meter, [stream]) == stream
    assert meter.usage == Usage(10, 2, 8)


def test_a_stream_that_breaks_off_leaves_a_guess_and_every_byte() -> None:
    """What was streamed is known by its length, also of tool calls and reasoning."""
    call = {"tool_calls": [{"index": 0, "function": {"arguments": "{" * 8}}], "reasoning_content": "x" * 8}
    stream = sse({"choices": [{"index": 0, "delta": call}]}) + sse(delta("never finished"))[:-2]
    meter = Meter(hide=True)
    assert through(meter, [stream]) == stream
    assert meter.usage is None
    assert meter.streamed == -(-(16 + len("never finished")) // 4)


@pytest.mark.parametrize(
    "event",
    ["not json", "[1]", "{", '{"usage": 5, "choices": 3, "delta": [1]}', '{"delta": {"tool_calls": [null]}}'],
)
def test_events_of_no_known_shape_pass(event: str) -> None:
    meter = Meter(hide=True)
    assert through(meter, [sse(event), b": a comment\n\n"]) == sse(event) + b": a comment\n\n"
    assert meter.usage is None


def test_an_event_longer_than_the_limit_passes_in_pieces() -> None:
    """Memory is bounded, whatever a provider sends."""
    splitter = EventSplitter(10)
    assert list(splitter.feed(b"data: 1\n\ndata: long")) == [b"data: 1\n\n"]
    assert list(splitter.feed(b"er still")) == [b"data: longer still"]
    assert splitter.rest() == b""


def test_data_of_several_lines_is_one() -> None:
    assert data_of(b"event: x\r\ndata: {\r\ndata:1}\r\nid: 5\r\n\r\n") == b"{\n1}"


def test_usage_is_asked_for_without_changing_the_rest() -> None:
    body = {"stream": True, "stream_options": {"include_obfuscation": False}}
    assert not usage_asked(body)
    asked = asking_for_usage(body)
    assert asked["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert usage_asked(asked)
    assert not usage_asked({"stream_options": None})
    assert body["stream_options"] == {"include_obfuscation": False}
