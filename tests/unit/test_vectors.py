"""Vectors as bytes, with numpy and without it: the same bytes."""

from __future__ import annotations

import base64
import struct
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachepolicy_runtime import vectors as vectors_module
from cachepolicy_runtime.vectors import (
    EmbeddingError,
    from_half,
    to_array,
    to_base64,
    to_blob,
    to_floats,
    to_half,
)

numpy: Any = pytest.importorskip("numpy")

vectors = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)
halves = st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=1, max_size=20)


@pytest.fixture(params=["numpy", "no numpy"], autouse=True)
def loaded(request: pytest.FixtureRequest) -> Iterator[None]:
    """As in a program that has loaded numpy, and as in one that has not."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "no numpy":
            patch.setattr(vectors_module, "_numpy", lambda: None)
        yield


@given(vectors)
def test_every_form_of_a_vector_gives_the_same_bytes(values: list[float]) -> None:
    """Little-endian float32."""
    blob = struct.pack(f"<{len(values)}f", *values)
    forms = [
        values,
        tuple(values),
        array("d", values),
        array("f", values),
        numpy.array(values, "<f8"),
        numpy.array(values, ">f4"),
        numpy.repeat(numpy.array(values, "<f4"), 2)[::2],
        base64.b64encode(blob).decode(),
    ]
    assert {to_blob(form) for form in forms} == {blob}
    assert to_floats(blob) == to_array(blob).tolist() == values
    assert base64.b64decode(to_base64(blob)) == blob


@given(halves)
def test_what_half_precision_can_hold_comes_back_exactly(values: list[float]) -> None:
    assert to_floats(from_half(to_half(to_blob(values)) or b"")) == values


@given(vectors)
def test_half_precision_is_that_of_ieee_754_and_rounding_twice_changes_nothing(values: list[float]) -> None:
    """``struct`` and numpy round alike, to the nearest even; larger numbers have no such form."""
    try:
        expected = struct.pack(f"<{len(values)}e", *values)
    except OverflowError:
        assert to_half(to_blob(values)) is None
        return
    assert to_half(to_blob(values)) == expected
    assert to_half(from_half(expected)) == expected


def test_integers_are_numbers() -> None:
    assert to_blob([1, 0]) == to_blob([1.0, 0.0]) == to_blob(numpy.array([1, 0]))


@pytest.mark.parametrize(
    "values",
    [
        [],
        "",
        [float("nan")],
        [1.0, float("inf")],
        [float("inf"), float("-inf")],
        [1e39],
        [10**400],
        ["x"],
        [None],
        [[1.0]],
        None,
        1.0,
        b"\0\0\0\0",
        "not base64!",
        "AAA=",
        base64.b64encode(struct.pack("<2f", 1, float("nan"))).decode(),
        numpy.array([[1.0]]),
        numpy.array([float("nan")]),
        numpy.array([1e39]),
        numpy.array(["x"]),
        numpy.array([True]),
        numpy.array([1j]),
    ],
    ids=repr,
)
def test_what_is_no_vector_is_refused(values: Any) -> None:
    """An empty one, one that is not finite in float32, and what is none at all."""
    with pytest.raises(EmbeddingError, match="the provider returned an embedding"):
        to_blob(values)
