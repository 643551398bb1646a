"""Vectors as bytes: little-endian float32, as providers compute them, or half of that for storage. Pure.

numpy is used where the program has loaded it and never loaded for its sake: it makes the checks and half
precision some twenty times faster, and nothing else differs.
"""

from __future__ import annotations

import binascii
import math
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

#: Bytes, or a view of them where they lie in the answer of the store.
Buffer: TypeAlias = "bytes | memoryview"
#: A vector as little-endian float32, four bytes for each number.
Blob: TypeAlias = Buffer

FLOAT32, FLOAT16 = "f32", "f16"
#: Bytes of one number by the format it is stored in.
WIDTHS = {FLOAT32: 4, FLOAT16: 2}

_BIG_ENDIAN = sys.byteorder == "big"


class EmbeddingError(Exception):
    """The provider's embeddings cannot be right: a wrong count, index or dimension. Nothing was stored."""


@dataclass(frozen=True, slots=True)
class IndexedVector:
    """One embedding as a provider returns it: its place in the batch that was sent, and its numbers.

    Attributes:
        values: numbers in a list, an array or a numpy array of one dimension, or base64 text of little-endian
            float32, as OpenAI writes it for ``encoding_format: base64``.
    """

    index: int
    values: Sequence[float] | str | Any


def to_blob(values: Sequence[float] | str | Any) -> Blob:
    """Raises :class:`EmbeddingError` for an empty vector and for what is not a list of finite float32."""
    try:
        blob = _packed(values)
    except (TypeError, ValueError, OverflowError):
        raise EmbeddingError("the provider returned an embedding that is not a list of numbers") from None
    if not blob or len(blob) % 4 or not _finite(blob):
        raise EmbeddingError("the provider returned an embedding that is empty or not finite")
    return blob


def _packed(values: Any) -> bytes:
    if isinstance(values, str):
        return binascii.a2b_base64(values, strict_mode=True)
    if hasattr(values, "dtype"):
        if values.ndim != 1 or values.dtype.kind not in "fiu":
            raise TypeError
        with sys.modules["numpy"].errstate(over="ignore"):  # infinity, which is refused later
            return bytes(values.astype("<f4").tobytes())
    if isinstance(values, bytes | bytearray):  # which are numbers, but not of a vector
        raise TypeError
    return _native(array("f", values)).tobytes()


def _finite(blob: Blob) -> bool:
    """Doubles add up 10³⁰⁰ float32 without overflow: their sum is finite if and only if all of them are."""
    numpy = _numpy()
    if numpy is not None:
        return bool(numpy.isfinite(numpy.frombuffer(blob, "<f4")).all())
    return math.isfinite(sum(to_array(blob)))


def to_array(blob: Blob) -> array[float]:
    """An ``array('f')``."""
    numbers = array("f")
    numbers.frombytes(blob)
    return _native(numbers)


def to_floats(blob: Blob) -> list[float]:
    return to_array(blob).tolist()


def to_base64(blob: Blob) -> str:
    """As OpenAI writes a vector for ``encoding_format: base64``."""
    return binascii.b2a_base64(blob, newline=False).decode("ascii")


def to_half(blob: Blob) -> bytes | None:
    """The numbers rounded to IEEE 754 half precision; None where one is larger than that holds (65,504)."""
    numpy = _numpy()
    if numpy is not None:
        with numpy.errstate(over="ignore"):
            half = numpy.frombuffer(blob, "<f4").astype("<f2")
        return bytes(half.tobytes()) if numpy.isfinite(half).all() else None
    try:
        return struct.pack(f"<{len(blob) // 4}e", *to_array(blob))
    except OverflowError:
        return None


def from_half(half: Buffer) -> Blob:
    """Float32 of the same numbers, exactly."""
    numpy = _numpy()
    if numpy is not None:
        return bytes(numpy.frombuffer(half, "<f2").astype("<f4").tobytes())
    return _native(array("f", struct.unpack(f"<{len(half) // 2}e", half))).tobytes()


def _native(numbers: array[float]) -> array[float]:
    """Between this machine's byte order and little-endian, either way."""
    if _BIG_ENDIAN:
        numbers.byteswap()
    return numbers


def _numpy() -> Any:
    return sys.modules.get("numpy")
