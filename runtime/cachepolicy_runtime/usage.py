"""How many tokens an answer cost, as its provider says. Pure.

Five shapes are known: OpenAI's chat completions, completions, responses and embeddings, and Anthropic's messages.
They differ in one thing that matters: OpenAI's ``prompt_tokens`` and ``input_tokens`` include what the provider read
from its own prompt cache, Anthropic's ``input_tokens`` do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, each counted in one place only.

    Attributes:
        input: read anew, what the provider wrote into its prompt cache included.
        cached_input: read from the provider's prompt cache.
        output: generated, hidden reasoning included.
    """

    input: int = 0
    cached_input: int = 0
    output: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input, self.cached_input + other.cached_input, self.output + other.output
        )


def usage_of(body: Mapping[str, Any]) -> Usage | None:
    """The usage in an answer's body; None where it tells none."""
    usage = body.get("usage")
    return usage_from(usage) if isinstance(usage, Mapping) else None


def usage_of_json(body: bytes) -> Usage | None:
    """As :func:`usage_of`, for a body that is not parsed yet; None too where it is no JSON object."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return usage_of(parsed) if isinstance(parsed, dict) else None


def usage_from(usage: Mapping[str, Any]) -> Usage | None:
    """The provider's ``usage`` object as counts; None where it counts nothing that is known."""
    if "prompt_tokens" in usage:
        return _inclusive(usage, "prompt", "completion")
    if "input_tokens" not in usage and "output_tokens" not in usage:
        return None
    if "input_tokens_details" in usage:
        return _inclusive(usage, "input", "output")
    return Usage(
        input=_count(usage, "input_tokens") + _count(usage, "cache_creation_input_tokens"),
        cached_input=_count(usage, "cache_read_input_tokens"),
        output=_count(usage, "output_tokens"),
    )


def _inclusive(usage: Mapping[str, Any], taken: str, given: str) -> Usage:
    """OpenAI's way: cached tokens are a part of the whole input."""
    whole = _count(usage, f"{taken}_tokens")
    details = usage.get(f"{taken}_tokens_details")
    cached = min(whole, _count(details, "cached_tokens")) if isinstance(details, Mapping) else 0
    return Usage(whole - cached, cached, _count(usage, f"{given}_tokens"))


def _count(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0
