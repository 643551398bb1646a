"""A stored value that cannot be trusted is a miss."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.caches import SECRET

from cachepolicy_runtime.envelope import MAGIC, Entry, pack, unpack
from cachepolicy_runtime.keys import CacheSecret

NAME = "shop/core:c:{acme}:r:openai:00"
ENTRY = Entry("0123456789abcdef", 1_800_000_000_000, 600_000, "application/json", b'{"a": 1}')


def test_what_was_packed_comes_back() -> None:
    """All fields, byte for byte."""
    assert unpack(SECRET, NAME, pack(SECRET, NAME, ENTRY)) == ENTRY


@pytest.mark.parametrize("position", range(len(pack(SECRET, NAME, ENTRY))))
def test_any_changed_byte_is_a_miss(position: int) -> None:
    """Magic, version, seal, times, stamp, type and payload are all covered."""
    data = bytearray(pack(SECRET, NAME, ENTRY))
    data[position] ^= 1
    assert unpack(SECRET, NAME, bytes(data)) is None


@pytest.mark.parametrize("length", [0, 1, len(MAGIC), 19, 40])
def test_a_value_that_was_cut_off_is_a_miss(length: int) -> None:
    """At every border of the envelope."""
    assert unpack(SECRET, NAME, pack(SECRET, NAME, ENTRY)[:length]) is None


@given(st.binary(max_size=80))
def test_foreign_bytes_are_a_miss(data: bytes) -> None:
    """Whatever somebody else wrote under our name; it never raises."""
    assert unpack(SECRET, NAME, data) is None
    assert unpack(SECRET, NAME, MAGIC + data) is None


def test_a_pickle_is_a_miss() -> None:
    """And nothing in it runs."""
    assert unpack(SECRET, NAME, pickle.dumps(ENTRY.payload)) is None


def test_another_version_is_a_miss() -> None:
    """A newer process may share the store."""
    data = pack(SECRET, NAME, ENTRY)
    assert unpack(SECRET, NAME, data[:2] + b"\x02" + data[3:]) is None


def test_a_value_under_another_name_is_a_miss() -> None:
    """Who can write to Redis cannot move one tenant's answer to another."""
    assert unpack(SECRET, NAME.replace("acme", "other"), pack(SECRET, NAME, ENTRY)) is None


def test_a_value_of_another_key_is_a_miss() -> None:
    """Who can write to Redis but has no HMAC key cannot make an answer."""
    other = CacheSecret.derive(b"another key, as long as it takes")
    assert unpack(SECRET, NAME, pack(other, NAME, ENTRY)) is None


def test_age_and_time_left_are_whole_seconds_and_never_negative() -> None:
    """Clocks of two replicas differ."""
    assert ENTRY.age_s(ENTRY.stored_at_ms + 1999) == 1
    assert ENTRY.age_s(ENTRY.stored_at_ms - 5000) == 0
    assert ENTRY.ttl_left_s(ENTRY.stored_at_ms + 599_000) == 1
    assert ENTRY.ttl_left_s(ENTRY.stored_at_ms + 700_000) == 0
