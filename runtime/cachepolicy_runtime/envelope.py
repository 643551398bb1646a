"""How a cached value is stored: a versioned binary envelope, never pickle.

::

    2 bytes   "CP"
    1 byte    version, 1
    16 bytes  seal: truncated HMAC over the entry's name and everything below
    8 bytes   when it was stored, milliseconds since 1970 (for the Age header only)
    8 bytes   time to live, milliseconds
    2 + n     purge stamp it was made under, ASCII
    2 + n     type of the payload, ASCII (a media type, or "f32")
    rest      payload

Anything that cannot be read is a miss: another version, damage, a value under another entry's name, a value
made with another HMAC key.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from cachepolicy_runtime.keys import SEAL_BYTES, CacheSecret

MAGIC = b"CP\x01"
_TIMES = struct.Struct(">QQ")
_LENGTH = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Entry:
    """A cached value and what a reader needs to judge it."""

    stamp: str
    stored_at_ms: int
    ttl_ms: int
    kind: str
    payload: bytes

    def age_s(self, now_ms: int) -> int:
        """Whole seconds since it was stored; never negative, for clocks of replicas differ."""
        return max(0, now_ms - self.stored_at_ms) // 1000

    def ttl_left_s(self, now_ms: int) -> int:
        return max(0, self.stored_at_ms + self.ttl_ms - now_ms) // 1000


def pack(secret: CacheSecret, name: str, entry: Entry) -> bytes:
    """The envelope of ``entry`` under the key ``name``."""
    content = b"".join(
        (
            _TIMES.pack(entry.stored_at_ms, entry.ttl_ms),
            _text(entry.stamp),
            _text(entry.kind),
            entry.payload,
        )
    )
    return MAGIC + secret.seal(name, content) + content


def unpack(secret: CacheSecret, name: str, data: bytes) -> Entry | None:
    """The entry, or None where ``data`` is no envelope that was sealed for ``name``."""
    start = len(MAGIC) + SEAL_BYTES
    content = data[start:]
    if not data.startswith(MAGIC) or not hmac.compare_digest(
        data[len(MAGIC) : start], secret.seal(name, content)
    ):
        return None
    stored_at_ms, ttl_ms = _TIMES.unpack_from(content)
    stamp, position = _read_text(content, _TIMES.size)
    kind, position = _read_text(content, position)
    return Entry(stamp, stored_at_ms, ttl_ms, kind, content[position:])


def _text(value: str) -> bytes:
    encoded = value.encode("ascii")
    return _LENGTH.pack(len(encoded)) + encoded


def _read_text(content: bytes, position: int) -> tuple[str, int]:
    (length,) = _LENGTH.unpack_from(content, position)
    start = position + _LENGTH.size
    return content[start : start + length].decode("ascii"), start + length
