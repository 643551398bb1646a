"""One text for all spellings of one JSON value: JCS, RFC 8785 (https://www.rfc-editor.org/rfc/rfc8785). Pure.

One difference: whole numbers keep all 64 bits. RFC 8785 rounds them to the 53 bits of a double, and two seeds
would become one; whole numbers of more than 64 bits are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson

#: Deeper values are refused: orjson stops at 254, and no provider needs a tenth of that.
MAX_DEPTH = 100
_MIN_INT, _MAX_INT = -(2**63), 2**64
#: Doubles between these that are not whole are written alike by orjson and by RFC 8785: digits and a point.
_PLAIN_LOW, _PLAIN_HIGH = 1e-3, 1e15
_LEAVES = frozenset({int, bool, type(None)})


class NotCanonicalError(ValueError):
    """The value has no canonical form. The message names the reason only, never a part of the value."""


def canonical_json(value: Any) -> bytes:
    """The canonical text, UTF-8; raises :class:`NotCanonicalError` for what is no JSON or nested too deep."""
    if type(value) is dict and _sorts_as_it_is(value):
        with suppress(orjson.JSONEncodeError):  # what is wrong is found below
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    try:
        return orjson.dumps(_canonical(value, MAX_DEPTH))
    except orjson.JSONEncodeError:
        raise NotCanonicalError("the body holds text that is not valid Unicode") from None


def _sorts_as_it_is(body: dict[Any, Any]) -> bool:
    """Whether orjson writes ``body`` canonically without help, as it does with nearly every request.

    That is so where it holds nothing but JSON's own types, ASCII keys, which sort alike as UTF-8 and as UTF-16,
    and no number that the two write differently. Level by level, for a call for each value costs more than
    everything else here. A key that is no string is left to :func:`_canonical`.
    """
    keys: list[str] = []
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for container in level:
            items = container
            if type(container) is dict:
                keys += container
                items = container.values()
            for item in items:
                kind = type(item)
                if kind is str:
                    continue
                if kind is dict or kind is list:
                    below.append(item)
                elif not (_plain_float(item) if kind is float else kind in _LEAVES):
                    return False
        if not below:
            return _ascii(keys)
        level = below
    return False


def _ascii(keys: list[str]) -> bool:
    try:
        return "".join(keys).isascii()
    except TypeError:  # not all of them are strings
        return False


def _plain_float(value: float) -> bool:
    return _PLAIN_LOW <= abs(value) < _PLAIN_HIGH and not value.is_integer()


def _canonical(value: Any, depth: int) -> Any:
    """``value`` with its keys in order and its numbers as orjson has to be given them."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration, its value
    if isinstance(value, int):
        if _MIN_INT <= value < _MAX_INT:
            return int(value)
        raise NotCanonicalError("the body holds a whole number of more than 64 bits")
    if isinstance(value, float):
        return _canonical_float(value)
    if depth == 0:
        raise NotCanonicalError(f"the body is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise NotCanonicalError("the body holds a key that is not a string")
        ordered = sorted(value, key=_utf16)
        return {str.__str__(key): _canonical(value[key], depth - 1) for key in ordered}
    if isinstance(value, list | tuple):
        return [_canonical(item, depth - 1) for item in value]
    raise NotCanonicalError(f"the body holds a {type(value).__name__}, which JSON does not know")


def _utf16(key: str) -> bytes:
    """Code units of UTF-16, most significant byte first: their order is that of RFC 8785, 3.2.3."""
    return key.encode("utf-16-be", "surrogatepass")


def _canonical_float(value: float) -> float | int | orjson.Fragment:
    if not math.isfinite(value):
        raise NotCanonicalError("the body holds a number that is not finite")
    if value.is_integer() and _MIN_INT <= value < _MAX_INT:
        return int(value)  # 1.0 is 1, and -0.0 is 0
    return float(value) if _plain_float(value) else orjson.Fragment(ecmascript_number(value))


def ecmascript_number(value: float) -> str:
    """A finite double other than 0 as ECMAScript writes it (ECMA-262, Number::toString; RFC 8785, 3.2.2.3).

    Python's ``repr`` has the same digits, the fewest that mean this double, and puts the point elsewhere.
    """
    _, numbers, exponent = Decimal(repr(abs(value))).normalize().as_tuple()
    digits, sign = "".join(map(str, numbers)), "-" if value < 0 else ""
    point = len(digits) + int(exponent)
    if 0 < point <= 21:
        whole = digits[:point].ljust(point, "0")
        return f"{sign}{whole}.{digits[point:]}" if point < len(digits) else f"{sign}{whole}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"
