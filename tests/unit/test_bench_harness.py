"""The arithmetic behind docs/benchmarks.md: ratios of one round, the order of turns, and what counts as met."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from benchmarks.harness import Figure, Spread, interleaved, number, peers_of, ratios, spread_of


def test_a_ratio_is_taken_within_its_round() -> None:
    """The second round was twice as slow for both: the ratio stays."""
    assert ratios([2.0, 4.0, 3.0], [1.0, 2.0, 1.0]) == Spread(2.0, 2.0, 3.0)


def test_a_ratio_needs_a_floor_of_every_round() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_a_spread_is_median_lowest_and_highest() -> None:
    assert spread_of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0)


def test_peers_are_neither_the_floor_nor_ours() -> None:
    rounds = {"F": [1.0, 2.0, 1.0], "ours": [1.0, 1.0, 1.0], "other": [3.0, 6.0, 4.0]}
    assert peers_of(rounds, "F", "ours") == {"other": 3.0}


async def test_every_round_has_everybody_and_another_one_first() -> None:
    """The first round warms up and is not counted."""
    turns: list[str] = []

    def measure(name: str) -> Callable[[], Awaitable[float]]:
        async def measured() -> float:
            turns.append(name)
            return float(len(turns))

        return measured

    samples = await interleaved({"a": measure("a"), "b": measure("b")}, count=2)
    assert turns == ["a", "b", "b", "a", "a", "b"]
    assert samples == {"a": [4.0, 5.0], "b": [3.0, 6.0]}


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(1.0, False, True), (1.01, False, False), (1.0, True, True), (0.99, True, False)],
)
def test_a_target_is_met_at_its_very_value(value: float, at_least: bool, met: bool) -> None:
    assert Figure("1", "a thing", spread_of([value]), "F", 1.0, at_least).met is met


@pytest.mark.parametrize(
    ("value", "text"), [(0.125, "0.12"), (12.34, "12.3"), (1234.5, "1,234"), (0.0, "0.00")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
