"""What is kept beside an answer comes back as it was."""

from __future__ import annotations

import pytest
from tests.caches import SECRET

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.response_entries import Facts, found_of, packed, unpacked


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts(("faq",), 1, 2, 3, 4),
        Facts(("a\nb", "c&d", "%20", "ü", "\ud800"), 1, 2, 3, 4),
        Facts((), 2**32 - 1, 2**32 - 1, 2**32 - 1, 2**32 - 1),
    ],
    ids=["nothing", "all", "odd tags", "the largest"],
)
def test_facts_survive_the_envelope(facts: Facts) -> None:
    found = found_of("stamp", 5, 6, Answer(200, b"body", {"Content-Type": "application/json"}), facts)
    assert unpacked(SECRET, "name", packed(SECRET, "name", found)) == found


def test_numbers_beyond_what_is_kept_become_the_largest() -> None:
    found = found_of("stamp", 5, 6, Answer(200, b"body"), Facts((), 2**40))
    read = unpacked(SECRET, "name", packed(SECRET, "name", found))
    assert read is not None
    assert read.facts.input_tokens == 2**32 - 1


def test_an_entry_under_another_name_is_none() -> None:
    data = packed(SECRET, "name", found_of("s", 1, 2, Answer(200, b"body"), Facts()))
    assert unpacked(SECRET, "other", data) is None
    assert unpacked(SECRET, "name", None) is None
