"""The two keyed hashes of the caches: one makes names, one seals values. Pure.

HMAC-SHA256 (RFC 2104). Measured against keyed BLAKE2b, it is as fast on short messages and takes 60 % of the
time on 4 KB, for current processors have instructions for SHA-256.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias

SEAL_BYTES = 16
_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))

Chunk: TypeAlias = "bytes | memoryview"


class Mac:
    """HMAC-SHA256 under one key whose blocks are hashed once; ``hmac`` would do that anew for each message."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = (key if len(key) <= _BLOCK else sha256(key).digest()).ljust(_BLOCK, b"\0")
        self._inner = sha256(block.translate(_INNER))
        self._outer = sha256(block.translate(_OUTER))

    def digest(self, *chunks: Chunk) -> bytes:
        """32 bytes over the chunks, which count as one message: frame them where their borders matter."""
        inner, outer = self._inner.copy(), self._outer.copy()
        for chunk in chunks:
            inner.update(chunk)
        outer.update(inner.digest())
        return outer.digest()

    def many(self, messages: Iterable[tuple[Chunk, Chunk]]) -> list[bytes]:
        """The digest of each message of two chunks; two thirds of the time of as many calls."""
        inner, outer, digests = self._inner.copy, self._outer.copy, []
        for head, tail in messages:
            begun, ended = inner(), outer()
            begun.update(head)
            begun.update(tail)
            ended.update(begun.digest())
            digests.append(ended.digest())
        return digests

    def after(self, *chunks: Chunk) -> Mac:
        """The same key for messages that all begin with these chunks."""
        begun = object.__new__(Mac)
        begun._inner, begun._outer = self._inner.copy(), self._outer
        for chunk in chunks:
            begun._inner.update(chunk)
        return begun


def framed(*parts: bytes) -> bytes:
    """The parts, each behind its length in 8 bytes: no other parts give the same bytes."""
    return b"".join([len(part).to_bytes(8, "big") + part for part in parts])


@dataclass(frozen=True, slots=True)
class CacheSecret:
    """The two keys that are derived from the cache's HMAC key."""

    naming: bytes = field(repr=False)
    sealing: bytes = field(repr=False)
    names: Mac = field(init=False, repr=False, compare=False)
    seals: Mac = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", Mac(self.naming))
        object.__setattr__(self, "seals", Mac(self.sealing))

    @classmethod
    def derive(cls, secret: bytes) -> CacheSecret:
        return cls(
            naming=hmac.digest(secret, b"cachepolicy cache names", "sha256"),
            sealing=hmac.digest(secret, b"cachepolicy cache values", "sha256"),
        )

    def seal(self, name: str, *content: Chunk) -> bytes:
        """16 bytes that only a holder of the key can make, for this content under this name."""
        return self.seals.digest(sealed_name(name), *content)[:SEAL_BYTES]


def sealed_name(name: str) -> bytes:
    """How a sealed message begins."""
    encoded = name.encode()
    return len(encoded).to_bytes(4, "big") + encoded
