"""Canonical JSON: the vectors of RFC 8785, and a plain definition of it that nothing else may differ from."""

from __future__ import annotations

import enum
import json
import struct
from collections import UserDict
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachepolicy_runtime.jcs import MAX_DEPTH, NotCanonicalError, canonical_json, ecmascript_number

characters = st.characters(exclude_categories=["Cs"])
floats = st.floats(allow_nan=False, allow_infinity=False)
#: Floats as requests have them, and whole ones, beside those that hypothesis likes.
numbers = st.integers(-(2**63), 2**64 - 1) | floats | st.decimals(-3, 3, places=3).map(float)
scalars = st.none() | st.booleans() | numbers | st.text(characters, max_size=8)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(characters, max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


def plain(value: Any) -> str:
    """RFC 8785 as it is written, with whole numbers of up to 64 bits kept: slow, and without orjson."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: list(struct.iter_unpack(">H", key.encode("utf-16-be"))))
        return "{" + ",".join(f"{plain(key)}:{plain(value[key])}" for key in keys) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(plain, value)) + "]"
    if isinstance(value, float):
        return plain_float(value)
    return json.dumps(value, ensure_ascii=False)


def plain_float(value: float) -> str:
    """ECMA-262, Number::toString, step by step: n is the place of the point among the k digits of s."""
    if value.is_integer() and -(2**63) <= value < 2**64:
        return str(int(value))
    if value < 0:
        return "-" + plain_float(-value)
    _, digits, exponent = Decimal(repr(value)).as_tuple()
    s = "".join(map(str, digits)).rstrip("0")
    k, n = len(s), len(digits) + int(exponent)
    if k <= n <= 21:
        return s + "0" * (n - k)
    if 0 < n <= 21:
        return s[:n] + "." + s[n:]
    if -6 < n <= 0:
        return "0." + "0" * -n + s
    e = f"e{'+' if n - 1 > 0 else '-'}{abs(n - 1)}"
    return s + e if k == 1 else s[0] + "." + s[1:] + e


@given(values)
def test_the_fast_way_writes_what_the_plain_definition_writes(value: Any) -> None:
    assert canonical_json(value).decode() == plain(value)
    assert canonical_json({"field": value}).decode() == plain({"field": value})


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=0xD700, max_codepoint=0x10FFFF, exclude_categories=["Cs"])),
        st.integers(),
    )
)
def test_keys_are_sorted_by_code_units_of_utf_16(value: dict[str, int]) -> None:
    """A character beyond U+FFFF comes before U+E000, although its code point is larger (RFC 8785, 3.2.3)."""
    small = {key: number % 10 for key, number in value.items()}
    assert canonical_json(small).decode() == plain(small)


def test_the_example_of_section_3_2_2() -> None:
    source = r"""{
      "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
      "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
      "literals": [null, true, false]
    }"""
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        r'"string":"€$\u000f\nA' + "'" + r'B\"\\\\\"/"}'
    )
    assert canonical_json(json.loads(source)).decode() == expected


def test_the_example_of_section_3_2_3() -> None:
    source = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    order = [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]
    assert list(json.loads(canonical_json(source)).values()) == order


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555554", "333333333.33333325"),
        ("41b3de4355555555", "333333333.3333333"),
        ("41b3de4355555556", "333333333.3333334"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_the_numbers_of_appendix_b(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(value).decode() == canonical_json({"n": value}).decode()[5:-1] == text


def test_whole_numbers_keep_all_their_64_bits() -> None:
    """The one difference: as doubles these two seeds would be one."""
    assert canonical_json([2**60, 2**60 + 1]) == b"[1152921504606846976,1152921504606846977]"
    assert canonical_json(2.0**60) == canonical_json(2**60)


@given(floats.filter(bool))
def test_a_number_written_as_ecmascript_does_means_the_same(value: float) -> None:
    assert float(ecmascript_number(value)) == value


class Word(enum.StrEnum):
    ROLE = "role"


class Number(enum.IntEnum):
    ONE = 1


def test_what_stands_for_a_json_value_is_written_as_that_value() -> None:
    """Mappings, tuples and enumerations of strings and numbers, as keys too."""
    given_ = UserDict({Word.ROLE: [Word.ROLE, Number.ONE, (1.0, 0.05)]})
    assert canonical_json(given_) == canonical_json(dict(given_)) == b'{"role":["role",1,[1,0.05]]}'


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "not finite"),
        (float("-inf"), "not finite"),
        (2**64, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ({1: 2}, "not a string"),
        ({None: 2}, "not a string"),
        (object(), "object"),
        (b"bytes", "bytes"),
        ({"s", "e", "t"}, "set"),
        ("\ud800", "Unicode"),
        ({"\udfff": 1}, "Unicode"),
    ],
)
def test_what_has_no_canonical_form_is_refused(value: Any, reason: str) -> None:
    """The reason never repeats a value."""
    for body in ({"field": value}, {"é": value}, [value]):
        with pytest.raises(NotCanonicalError, match=reason) as refused:
            canonical_json(body)
        assert "field" not in str(refused.value)


@pytest.mark.parametrize(
    "make", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: {"é": inner}]
)
def test_a_value_is_refused_from_one_depth_on(make: Any) -> None:
    """In the fast way as in the other; nobody can bring the process to its recursion limit."""
    body: Any = make(1)
    for _ in range(MAX_DEPTH - 1):
        body = make(body)
    assert canonical_json(body).decode() == plain(body)
    with pytest.raises(NotCanonicalError, match="levels deep"):
        canonical_json(make(body))
    for _ in range(5000):
        body = make(body)
    with pytest.raises(NotCanonicalError, match="levels deep"):
        canonical_json(body)
