"""What a stored answer is good for, by its age, the policy and the request's directives."""

from __future__ import annotations

import pytest

from cachepolicy import Duration
from cachepolicy.response_cache import ResponseCache
from cachepolicy_runtime.freshness import NOTHING_ASKED, Asked, Use, asked_for, jittered, use_of

RULES = ResponseCache(
    stale_while_revalidate=Duration.parse("10s"), stale_if_error=Duration.parse("60s"), jitter_percent=0
)
TTL = 100_000


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        ("", NOTHING_ASKED),
        ("No-Cache", Asked(no_cache=True)),
        ("no-store, max-age=5", Asked(no_store=True, max_age_ms=5000)),
        ('max-age="7"', Asked(max_age_ms=7000)),
        ("only-if-cached", Asked(only_if_cached=True)),
        ("min-fresh=3", Asked(min_fresh_ms=3000)),
        ("max-stale=4", Asked(max_stale_ms=4000)),
        ("max-stale", Asked(max_stale_ms=10**12)),
        ("max-age, max-age=soon, max-age=-1, min-fresh, private, =, ,", NOTHING_ASKED),
    ],
)
def test_the_directives_of_a_request(header: str, asked: Asked) -> None:
    """RFC 9111; what is not one of them, or lacks its number, counts as absent."""
    assert asked_for(header) == asked


@pytest.mark.parametrize(
    ("age_s", "use"),
    [
        (0, Use.FRESH),
        (99.999, Use.FRESH),
        (100, Use.REVALIDATE),
        (109.999, Use.REVALIDATE),
        (110, Use.IF_ERROR),
        (159.999, Use.IF_ERROR),
        (160, Use.EXPIRED),
    ],
)
def test_an_answer_ages_through_the_windows_of_the_policy(age_s: float, use: Use) -> None:
    assert use_of(int(age_s * 1000), TTL, RULES, NOTHING_ASKED) is use


def test_without_windows_an_answer_ends_with_its_time_to_live() -> None:
    assert use_of(TTL - 1, TTL, ResponseCache(), NOTHING_ASKED) is Use.FRESH
    assert use_of(TTL, TTL, ResponseCache(), NOTHING_ASKED) is Use.EXPIRED


@pytest.mark.parametrize(
    ("header", "age_s", "use"),
    [
        ("max-age=50", 50, Use.FRESH),
        ("max-age=50", 51, Use.REFUSED),
        ("max-age=50", 105, Use.IF_ERROR),
        ("min-fresh=30", 70, Use.FRESH),
        ("min-fresh=30", 71, Use.REFUSED),
        ("min-fresh=30", 105, Use.IF_ERROR),
        ("max-stale=20", 115, Use.FRESH),
        ("max-stale=20", 121, Use.IF_ERROR),
        ("max-stale", 10_000, Use.FRESH),
        ("max-stale=20", 105, Use.REVALIDATE),
    ],
)
def test_a_request_narrows_and_widens_what_it_takes(header: str, age_s: int, use: Use) -> None:
    """A stale answer in the window of revalidation is renewed whatever the request takes."""
    assert use_of(age_s * 1000, TTL, RULES, asked_for(header)) is use


def test_jitter_shortens_by_up_to_its_share_and_is_the_same_everywhere() -> None:
    assert jittered(1000, 10, "00000000" + "f" * 56) == 1000
    assert jittered(1000, 10, "f" * 64) == 901
    assert jittered(1000, 50, "80000000" + "0" * 56) == 750
    assert jittered(1000, 0, "f" * 64) == 1000
