"""Embeddings of the stand-in."""

from __future__ import annotations

import base64
import math
import random
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from cachepolicy_runtime.standin.knobs import BadRequestError

DEFAULT_DIMENSIONS = 64
MAX_DIMENSIONS = 4096

#: One text, or one list of tokens.
Item = str | list[int]


def embeddings(body: Mapping[str, Any], items: Sequence[Item]) -> dict[str, Any]:
    dimensions = _dimensions(body.get("dimensions"))
    encoded = body.get("encoding_format") == "base64"
    used = sum(len(item.split()) if isinstance(item, str) else len(item) for item in items)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(vector(item, dimensions), encoded)}
            for index, item in enumerate(items)
        ],
        "model": body.get("model"),
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def vector(item: Item, dimensions: int) -> list[float]:
    """A unit vector that only the text, or the tokens, decide."""
    seed = item if isinstance(item, str) else repr(item)
    source = random.Random(seed)  # noqa: S311 - numbers that look like an embedding
    values = [source.gauss(0, 1) for _ in range(dimensions)]
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def items_of(value: Any) -> list[Item]:
    """What is to be embedded: a text, a list of texts, a list of tokens, or a list of those."""
    if isinstance(value, str) or (isinstance(value, list) and value and _is_tokens(value)):
        return [value]
    if isinstance(value, list) and value and all(isinstance(item, str) or _is_tokens(item) for item in value):
        return value
    raise BadRequestError("input must be a text, a list of texts, a list of tokens or a list of those")


def _is_tokens(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    )


def _encoded(values: list[float], encoded: bool) -> list[float] | str:
    return base64.b64encode(array("f", values).tobytes()).decode() if encoded else values


def _dimensions(value: Any) -> int:
    if value is None:
        return DEFAULT_DIMENSIONS
    if not isinstance(value, int) or not 1 <= value <= MAX_DIMENSIONS:
        raise BadRequestError(f"dimensions must be a whole number from 1 to {MAX_DIMENSIONS}")
    return value
