"""A stored value that cannot be trusted is a miss."""

from __future__ import annotations

import pickle
from hashlib import shake_256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.caches import SECRET

from cachepolicy_runtime.envelope import COMPRESS_FROM, MAGIC, Entry, Opener, expiry_of, pack, unpack
from cachepolicy_runtime.keys import CacheSecret
from cachepolicy_runtime.vectors import Buffer

NAME = "shop/core:c:{acme}:r:openai:00"
ENTRY = Entry("0123456789abcdef", 1_800_000_000_000, 600_000, "application/json", b'{"a": 1}', b"note")
LARGE = ENTRY._replace(payload=b"The same words again. " * 1000)

entries = st.builds(
    Entry,
    stamp=st.text(st.characters(codec="ascii"), max_size=20),
    stored_at_ms=st.integers(0, 2**64 - 1),
    ttl_ms=st.integers(0, 2**64 - 1),
    kind=st.text(st.characters(codec="ascii"), max_size=20),
    payload=st.binary(max_size=60) | st.sampled_from([b"", b"x" * COMPRESS_FROM]),
    note=st.binary(max_size=20),
)


def opened(entry: Entry, data: bytes, name: str = NAME) -> Buffer | None:
    """What an opener for the stamp and type of ``entry`` makes of ``data`` between two good values."""
    opener = Opener(SECRET, entry.stamp, entry.kind)
    good = pack(SECRET, NAME, entry._replace(note=b""), compress_from=None)
    before, payload, nothing, after = opener.payloads([NAME, name, NAME, NAME], [good, data, None, good])
    assert before == entry.payload == after
    assert nothing is None
    return payload


@given(entries)
def test_what_was_packed_comes_back(entry: Entry) -> None:
    """All fields, byte for byte, whether it was compressed or not."""
    data = pack(SECRET, NAME, entry)
    assert unpack(SECRET, NAME, data) == entry
    assert unpack(SECRET, NAME, pack(SECRET, NAME, entry, compress_from=0)) == entry
    assert expiry_of(data) == (entry.stored_at_ms, entry.ttl_ms)


@given(entries, st.data())
def test_any_damage_is_a_miss_and_never_an_exception(entry: Entry, data: st.DataObject) -> None:
    """Bytes changed, lost, doubled or added anywhere."""
    packed = pack(SECRET, NAME, entry)
    start = data.draw(st.integers(0, len(packed)))
    end = data.draw(st.integers(start, len(packed)))
    damaged = packed[:start] + data.draw(st.binary(max_size=30)) + packed[end:]
    if damaged != packed:
        assert unpack(SECRET, NAME, damaged) is None
        assert opened(entry, damaged) is None


@given(st.binary(max_size=120))
def test_content_that_nobody_packed_is_a_miss_although_it_is_sealed(content: bytes) -> None:
    """A defect of another release must not raise here."""
    data = MAGIC + SECRET.seal(NAME, content) + content
    entry = unpack(SECRET, NAME, data)
    assert entry is None or pack(SECRET, NAME, entry, compress_from=None) == data


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
    assert unpack(SECRET, NAME, data[:2] + b"\x03" + data[3:]) is None


def test_large_payloads_are_compressed_where_that_saves_something() -> None:
    """Text is; vectors and what is compressed already are not worth it."""
    noise = ENTRY._replace(payload=shake_256(b"noise").digest(2 * COMPRESS_FROM))
    assert len(pack(SECRET, NAME, LARGE)) < len(LARGE.payload) / 10
    assert len(pack(SECRET, NAME, noise)) > len(noise.payload)
    small = ENTRY._replace(payload=b"x" * (COMPRESS_FROM - 1))
    assert len(pack(SECRET, NAME, small)) > COMPRESS_FROM
    assert unpack(SECRET, NAME, pack(SECRET, NAME, LARGE)) == LARGE


@pytest.mark.parametrize("claimed", [0, len(LARGE.payload) - 1, len(LARGE.payload) + 1])
def test_a_compressed_payload_of_another_length_is_a_miss(claimed: int) -> None:
    """And never more memory than the envelope names."""
    content = bytearray(pack(SECRET, NAME, LARGE)[19:])
    content[16:20] = claimed.to_bytes(4, "big")
    assert unpack(SECRET, NAME, MAGIC + SECRET.seal(NAME, bytes(content)) + content) is None


def test_a_codec_that_nobody_knows_is_a_miss() -> None:
    content = bytearray(pack(SECRET, NAME, ENTRY)[19:])
    assert unpack(SECRET, NAME, MAGIC + SECRET.seal(NAME, bytes(content)) + content) == ENTRY
    content[20] = 2
    assert unpack(SECRET, NAME, MAGIC + SECRET.seal(NAME, bytes(content)) + content) is None


@given(entries, entries)
def test_an_opener_gives_the_payloads_of_its_stamp_and_type_alone(entry: Entry, other: Entry) -> None:
    """It agrees with ``unpack`` on what has no note and was not compressed."""
    bare = entry._replace(note=b"")
    data = pack(SECRET, NAME, bare, compress_from=None)
    assert opened(entry, data) == entry.payload
    assert opened(entry, data, NAME + "x") is None
    if (other.stamp, other.kind) != (entry.stamp, entry.kind):
        assert opened(other, data) is None
    assert opened(entry, pack(SECRET, NAME, LARGE)) is None


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
