"""How a cached value is stored: a versioned binary envelope, never pickle.

::

    2 bytes   "CP"
    1 byte    version, 2
    16 bytes  seal: truncated HMAC-SHA256 over the entry's name and everything below
    8 bytes   when it was stored, milliseconds since 1970 (for ages only)
    8 bytes   time for which it is fresh, milliseconds
    4 bytes   length of the payload before it was compressed
    1 byte    codec of the payload: 0 as it is, 1 zlib (RFC 1950)
    2 bytes   length of the stamp
    2 bytes   length of the type
    2 bytes   length of the note
    …         purge stamp it was made under, ASCII
    …         type of the payload, ASCII (a media type, or the format of a vector)
    …         note: what a cache remembers beside the payload
    rest      payload

Anything that cannot be read is a miss: another version, damage, a value under another entry's name, a value
made with another HMAC key.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from hmac import compare_digest
from typing import NamedTuple

from cachepolicy_runtime.macs import SEAL_BYTES, CacheSecret, sealed_name

MAGIC = b"CP\x02"
_SEALED_AT = len(MAGIC) + SEAL_BYTES
_TIMES = struct.Struct(">QQI")
_SHAPE = struct.Struct(">BHHH")
_SHAPE_AT = _SEALED_AT + _TIMES.size
_TEXTS_AT = _SHAPE_AT + _SHAPE.size
_PLAIN, _ZLIB = 0, 1

#: Payloads from this size on are compressed. Measured on answers of 8 KiB: a third of the memory is left, and a hit
#: takes 27 µs longer, a tenth of it; below, the time goes on and the gain shrinks.
COMPRESS_FROM = 8 * 1024
#: The fastest level: 6 takes three to seven times as long for a tenth less.
_LEVEL = 1
#: Kept compressed only where that saves at least an eighth.
_WORTH = 7 / 8


class Entry(NamedTuple):
    """A cached value and what a reader needs to judge it.

    Attributes:
        ttl_ms: time for which it is fresh, from ``stored_at_ms`` on.
        kind: type of the payload, ASCII.
        payload: the value, never compressed here.
        note: at most 65,535 bytes that the cache understands.
    """

    stamp: str
    stored_at_ms: int
    ttl_ms: int
    kind: str
    payload: bytes
    note: bytes = b""

    def age_s(self, now_ms: int) -> int:
        """Whole seconds since it was stored; never negative, for clocks of replicas differ."""
        return max(0, now_ms - self.stored_at_ms) // 1000

    def ttl_left_s(self, now_ms: int) -> int:
        return max(0, self.stored_at_ms + self.ttl_ms - now_ms) // 1000


def pack(secret: CacheSecret, name: str, entry: Entry, *, compress_from: int | None = COMPRESS_FROM) -> bytes:
    """The envelope of ``entry`` under the key ``name``. None for ``compress_from`` leaves the payload as it is."""
    codec, body = _PLAIN, entry.payload
    if compress_from is not None and len(body) >= compress_from:
        codec, body = _compressed(body)
    stamp, kind = entry.stamp.encode("ascii"), entry.kind.encode("ascii")
    content = b"".join(
        (
            _TIMES.pack(entry.stored_at_ms, entry.ttl_ms, len(entry.payload)),
            _SHAPE.pack(codec, len(stamp), len(kind), len(entry.note)),
            stamp,
            kind,
            entry.note,
            body,
        )
    )
    return b"".join((MAGIC, secret.seal(name, content), content))


def unpack(secret: CacheSecret, name: str, data: bytes) -> Entry | None:
    """The entry, or None where ``data`` is no envelope that was sealed for ``name``."""
    if not data.startswith(MAGIC) or not _sealed(secret, name, data):
        return None
    try:
        stored_at_ms, ttl_ms, size = _TIMES.unpack_from(data, _SEALED_AT)
        codec, stamp_length, kind_length, note_length = _SHAPE.unpack_from(data, _SHAPE_AT)
        kind_at = _TEXTS_AT + stamp_length
        note_at = kind_at + kind_length
        payload_at = note_at + note_length
        payload = _plain(codec, data[payload_at:], size)
        stamp, kind = data[_TEXTS_AT:kind_at].decode("ascii"), data[kind_at:note_at].decode("ascii")
    except (struct.error, UnicodeDecodeError, zlib.error):
        return None
    if payload is None:
        return None
    return Entry(stamp, stored_at_ms, ttl_ms, kind, payload, data[note_at:payload_at])


class Opener:
    """Opens many envelopes of one stamp and one type that have no note and were not compressed.

    What all of them must have in common is compared as one piece, and before the seal, which costs most.
    """

    __slots__ = ("_common", "_payload_at", "_seals")

    def __init__(self, secret: CacheSecret, stamp: str, kind: str) -> None:
        shape = _SHAPE.pack(_PLAIN, len(stamp), len(kind), 0)
        self._common = shape + stamp.encode("ascii") + kind.encode("ascii")
        self._payload_at = _SHAPE_AT + len(self._common)
        self._seals = secret.seals

    def payloads(
        self, names: Iterable[str], values: Iterable[bytes | None]
    ) -> list[bytes | memoryview | None]:
        """A view of the payload of each value; None where :func:`unpack` finds no entry under this name, or one of
        another stamp or type. A copy would take as long as everything else but the hash."""
        alike = [value if value is not None and self._alike(value) else None for value in values]
        seals = iter(
            self._seals.many(
                (sealed_name(name), memoryview(value)[_SEALED_AT:])
                for name, value in zip(names, alike, strict=True)
                if value is not None
            )
        )
        return [
            memoryview(value)[self._payload_at :]
            if value is not None and _seal_is(value, next(seals))
            else None
            for value in alike
        ]

    def _alike(self, value: bytes) -> bool:
        return value.startswith(self._common, _SHAPE_AT) and value.startswith(MAGIC)


def expiry_of(data: bytes) -> tuple[int, int]:
    """``stored_at_ms`` and ``ttl_ms`` of an envelope that was opened."""
    stored_at_ms, ttl_ms, _ = _TIMES.unpack_from(data, _SEALED_AT)
    return stored_at_ms, ttl_ms


def _sealed(secret: CacheSecret, name: str, data: bytes) -> bool:
    return _seal_is(data, secret.seal(name, memoryview(data)[_SEALED_AT:]))


def _seal_is(data: bytes, seal: bytes) -> bool:
    return compare_digest(data[len(MAGIC) : _SEALED_AT], seal[:SEAL_BYTES])


def _compressed(payload: bytes) -> tuple[int, bytes]:
    body = zlib.compress(payload, _LEVEL)
    return (_ZLIB, body) if len(body) <= len(payload) * _WORTH else (_PLAIN, payload)


def _plain(codec: int, body: bytes, size: int) -> bytes | None:
    """The payload of the length that it was stored with; never makes more bytes than that."""
    if codec == _ZLIB:
        body = zlib.decompressobj().decompress(body, size + 1)
    elif codec != _PLAIN:
        return None
    return body if len(body) == size else None
