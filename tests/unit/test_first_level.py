"""The first level: bounded by bytes, never longer than it was told, least used first."""

from __future__ import annotations

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.first_level import OVERHEAD_BYTES, FirstLevel
from cachepolicy_runtime.response_entries import Facts, Found

ROOM = 10_000


def found(size: int = 1000) -> Found:
    return Found(Answer(200, b"x" * size), "s", Facts(), 0, 1000)


def test_an_entry_is_there_until_its_time_and_not_a_moment_longer() -> None:
    level, entry = FirstLevel(), found()
    level.put("a", entry, 500, ROOM)
    assert level.get("a", 499) is entry
    assert level.get("a", 500) is None
    assert (len(level), level.bytes) == (0, 0)


def test_the_one_used_longest_ago_gives_way() -> None:
    level = FirstLevel()
    size = 1 + 1000 + OVERHEAD_BYTES
    for name in "abc":
        level.put(name, found(), 500, 3 * size)
    level.get("a", 0)
    level.put("d", found(), 500, 3 * size)
    assert [name for name in "abcd" if level.get(name, 0)] == ["a", "c", "d"]
    assert level.bytes == 3 * size


def test_what_is_larger_than_all_of_it_is_not_kept_and_pushes_nothing_out() -> None:
    level = FirstLevel()
    level.put("a", found(), 500, ROOM)
    level.put("b", found(ROOM), 500, ROOM)
    assert level.get("a", 0) is not None
    assert level.get("b", 0) is None


def test_an_entry_takes_the_place_of_its_predecessor() -> None:
    level, newer = FirstLevel(), found(2000)
    level.put("a", found(), 500, ROOM)
    level.put("a", newer, 500, ROOM)
    assert level.get("a", 0) is newer
    assert level.bytes == 1 + 2000 + OVERHEAD_BYTES


def test_a_smaller_bound_holds_from_the_next_entry_on() -> None:
    level = FirstLevel()
    for name in "abcd":
        level.put(name, found(), 500, ROOM)
    level.put("e", found(), 500, 2 * (1001 + OVERHEAD_BYTES))
    assert len(level) == 2
