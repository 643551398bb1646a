"""A stored answer: what is kept of it in the envelope, and what a reader gets.

The envelope's note holds four numbers of 32 bits (tokens of input, of cached input and of output, milliseconds that the
provider took) and then the tags, encoded as in keys, with ``&`` between them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, Self
from urllib.parse import unquote

from cachepolicy.keys import encode
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.envelope import Entry, pack, unpack
from cachepolicy_runtime.keys import CacheSecret
from cachepolicy_runtime.usage import Usage

_NUMBERS = struct.Struct(">IIII")
_MOST = 2**32 - 1


class Facts(NamedTuple):
    """What is kept beside an answer.

    Attributes:
        tags: of the entry; a purge can name one.
        input_tokens, cached_input_tokens, output_tokens: as the provider counted them, each in one place only.
        took_ms: how long the provider took.
    """

    tags: tuple[str, ...] = ()
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    took_ms: int = 0

    @classmethod
    def of(cls, tags: tuple[str, ...], usage: Usage | None, took_ms: int) -> Self:
        used = usage or Usage()
        return cls(tags, used.input, used.cached_input, used.output, took_ms)

    def packed(self) -> bytes:
        tags, *numbers = self
        return _NUMBERS.pack(*(min(number, _MOST) for number in numbers)) + "&".join(
            encode(tag) for tag in tags
        ).encode("ascii")


def _unpacked_facts(note: bytes) -> Facts:
    numbers = _NUMBERS.unpack_from(note)
    if len(note) == _NUMBERS.size:
        return Facts((), *numbers)
    tags = note[_NUMBERS.size :].decode("ascii").split("&")
    return Facts(tuple(unquote(tag, errors="surrogatepass") for tag in tags), *numbers)


@dataclass(slots=True)
class Found:
    """A stored answer. Shared by all who read it: nobody changes it."""

    answer: Answer
    stamp: str
    facts: Facts
    stored_at_ms: int
    ttl_ms: int

    def age_ms(self, now_ms: int) -> int:
        """Never negative, for clocks of replicas differ."""
        return max(0, now_ms - self.stored_at_ms)

    def ttl_s(self, now_ms: int) -> int:
        """Whole seconds for which it is still fresh; below 0 when it is stale."""
        return (self.ttl_ms - self.age_ms(now_ms)) // 1000


def found_of(stamp: str, now_ms: int, ttl_ms: int, answer: Answer, facts: Facts) -> Found:
    """What a reader of this answer will find."""
    return Found(Answer(200, answer.body, _headers(answer.content_type)), stamp, facts, now_ms, ttl_ms)


def packed(secret: CacheSecret, name: str, found: Found) -> bytes:
    """The envelope under the key ``name``."""
    answer = found.answer
    entry = Entry(
        found.stamp, found.stored_at_ms, found.ttl_ms, answer.content_type, answer.body, found.facts.packed()
    )
    return pack(secret, name, entry)


def unpacked(secret: CacheSecret, name: str, data: bytes | None) -> Found | None:
    """None where there is nothing, or nothing that was sealed for ``name``."""
    entry = unpack(secret, name, data) if data is not None else None
    if entry is None:
        return None
    stamp, stored_at_ms, ttl_ms, kind, payload, note = entry
    answer = Answer(200, payload, _headers(kind))
    return Found(answer, stamp, _unpacked_facts(note), stored_at_ms, ttl_ms)


@lru_cache(maxsize=64)
def _headers(content_type: str) -> Mapping[str, str]:
    return MappingProxyType({"content-type": content_type})
