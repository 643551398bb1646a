"""What embeddings are asked for, and the names that they are kept under. Pure.

A batch has one model, one tenant and many inputs: what all of them share is hashed once, each input once.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from cachepolicy.keys import KeyLayout
from cachepolicy_runtime.jcs import NotCanonicalError, canonical_json
from cachepolicy_runtime.keys import KEY_VERSION
from cachepolicy_runtime.macs import CacheSecret, framed

#: A text, or a text as the tokens of the model.
Input: TypeAlias = "str | Sequence[int]"
#: What a caller may give, as the field ``input`` of OpenAI's API: one input or many of one sort.
Inputs: TypeAlias = "Input | Sequence[str] | Sequence[Sequence[int]]"

_TOKENS = 2**64
_FORM = "inputs are a text, a list of texts, a list of tokens or a list of such lists"


@dataclass(frozen=True, slots=True)
class EmbeddingQuery:
    """What a provider is asked to make of each input; None where it is not told."""

    model: str
    provider: str | None = None
    dimensions: int | None = None
    input_type: str | None = None


def inputs_of(given: Any) -> list[Any]:
    """``given`` as a list of inputs; raises ``ValueError`` for what no provider would take."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, Sequence) and not isinstance(given, bytes | bytearray | memoryview):
        kinds = set(map(type, given))
        if kinds <= {str}:
            return list(given)
        if _are_tokens(given):
            return [list(given)]
        if kinds <= {list, tuple} and all(map(_are_tokens, given)):
            return list(given)
        if all(isinstance(text, str) for text in given):
            return list(given)
    raise ValueError(_FORM)


def _are_tokens(item: Sequence[Any]) -> bool:
    """Whole numbers of up to 64 bits, at least one."""
    return set(map(type, item)) == {int} and min(item) >= 0 and max(item) < _TOKENS


def identities(inputs: Sequence[Any]) -> list[Hashable]:
    """What tells one input from another, in their order: a text itself, tokens as a tuple."""
    return list(inputs) if inputs and isinstance(inputs[0], str) else [tuple(tokens) for tokens in inputs]


def names(
    secret: CacheSecret,
    layout: KeyLayout,
    scope: str,
    query: EmbeddingQuery,
    inputs: Iterable[Any],
    *,
    stored_as: str,
) -> list[str]:
    """The key of each input. A text is taken as it is: case and spaces count. ``stored_as`` is the format of the
    stored vector, for one of half precision is another vector. Raises :class:`NotCanonicalError` for a query
    that no JSON can say."""
    asked = [query.provider, query.model, query.dimensions, query.input_type, stored_as]
    shared = secret.names.after(framed(KEY_VERSION, b"embedding", scope.encode(), canonical_json(asked)))
    place = layout.embedding(scope, query.model, "")
    return [place + digest.hex() for digest in shared.many(map(_message, inputs))]


def _message(item: Input) -> tuple[bytes, bytes]:
    """The input behind one byte that tells texts from tokens; it ends the message, so it needs no length."""
    if isinstance(item, str):
        return b"t", item.encode("utf-8", "surrogatepass")
    return b"i", struct.pack(f"<{len(item)}Q", *item)


__all__ = ["EmbeddingQuery", "Input", "Inputs", "NotCanonicalError", "identities", "inputs_of", "names"]
