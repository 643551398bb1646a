"""A stored answer: what is kept of it in the envelope, and what a reader gets."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import orjson

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.envelope import Entry, pack, unpack
from cachepolicy_runtime.keys import CacheSecret
from cachepolicy_runtime.usage import Usage


class Facts(NamedTuple):
    """What is kept beside an answer.

    Attributes:
        tags: of the entry; a purge can name one.
        usage: tokens that the provider counted.
        took_ms: how long the provider took.
    """

    tags: tuple[str, ...] = ()
    usage: Usage = Usage()
    took_ms: int = 0


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
    kept = Answer(200, answer.body, MappingProxyType({"content-type": answer.content_type}))
    return Found(kept, stamp, facts, now_ms, ttl_ms)


def packed(secret: CacheSecret, name: str, found: Found) -> bytes:
    """The envelope under the key ``name``."""
    tags, usage, took_ms = found.facts
    note = orjson.dumps([tags, usage.input, usage.cached_input, usage.output, took_ms])
    entry = Entry(
        found.stamp, found.stored_at_ms, found.ttl_ms, found.answer.content_type, found.answer.body, note
    )
    return pack(secret, name, entry)


def unpacked(secret: CacheSecret, name: str, data: bytes | None) -> Found | None:
    """None where there is nothing, or nothing that was sealed for ``name``."""
    entry = unpack(secret, name, data) if data is not None else None
    if entry is None:
        return None
    tags, taken, cached, given, took_ms = orjson.loads(entry.note)
    return Found(
        Answer(200, entry.payload, MappingProxyType({"content-type": entry.kind})),
        entry.stamp,
        Facts(tuple(tags), Usage(taken, cached, given), took_ms),
        entry.stored_at_ms,
        entry.ttl_ms,
    )
