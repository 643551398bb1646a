"""Generations of LangChain as JSON, and back: never pickled, and no class is made but those listed here.

LangChain's own ``load`` makes an object of any class that it knows, and whoever writes to the cache would choose
which (CVE-2026-27794 was such a cache).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from cachepolicy_runtime.clients.missing import needs

with needs("langchain_core", "cachepolicy[langchain]"):
    from langchain_core.messages import message_to_dict, messages_from_dict
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk

_TEXTS: dict[str, type[Generation]] = {kind.__name__: kind for kind in (Generation, GenerationChunk)}
_CHATS: dict[str, type[ChatGeneration]] = {
    kind.__name__: kind for kind in (ChatGeneration, ChatGenerationChunk)
}


def encoded(generations: Sequence[Generation]) -> bytes | None:
    """None for what would come back as something else."""
    try:
        payload = orjson.dumps([_plain(generation) for generation in generations])
    except (PydanticSerializationError, TypeError, KeyError):
        return None
    return payload if decoded(payload) == list(generations) else None


def decoded(payload: bytes) -> list[Generation] | None:
    """None for what this version cannot read, which is a miss."""
    try:
        return [_generation(item) for item in orjson.loads(payload)]
    except (orjson.JSONDecodeError, ValidationError, ValueError, TypeError, KeyError):
        return None


def _plain(generation: Generation) -> dict[str, Any]:
    kind = type(generation).__name__
    plain: dict[str, Any] = {"kind": kind, "info": generation.generation_info}
    if type(generation) is _CHATS.get(kind):
        return {**plain, "message": message_to_dict(generation.message)}
    if type(generation) is _TEXTS.get(kind):
        return {**plain, "text": generation.text}
    raise TypeError(f"a {kind} is not stored")


def _generation(plain: dict[str, Any]) -> Generation:
    kind, info = plain["kind"], plain["info"]
    if kind in _CHATS:
        (message,) = messages_from_dict([plain["message"]])
        return _CHATS[kind](message=message, generation_info=info)
    return _TEXTS[kind](text=plain["text"], generation_info=info)
