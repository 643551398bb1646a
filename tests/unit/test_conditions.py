"""Conditions keep their times, are written on a difference only, and follow kstatus."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from cachepolicy.status import Condition as StatusCondition
from cachepolicy_operator.conditions import (
    STANDING,
    Condition,
    ConditionType,
    Status,
    flipped,
    merge,
    status_of,
    timestamp,
)

T0 = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
T1 = T0 + timedelta(minutes=5)

READY = Condition.true(ConditionType.READY, "AllGood", "fine")
NOT_READY = Condition.false(ConditionType.READY, "PodsDown", "0 of 1 pods")


def only(conditions: list[dict[str, object]], kind: ConditionType) -> dict[str, object]:
    (found,) = (item for item in conditions if item["type"] == kind)
    return found


def test_the_first_write_has_all_standing_conditions() -> None:
    """Ready is present from the first write; what nobody looked at is Unknown."""
    first = merge([], [READY], generation=1, now=T0)
    assert [item["type"] for item in first] == [str(kind) for kind in STANDING]
    assert only(first, ConditionType.ENFORCED)["status"] == "Unknown"


def test_the_same_finding_twice_gives_the_same_list() -> None:
    """Otherwise status would be written at every look."""
    first = merge([], [READY], generation=1, now=T0)
    assert merge(first, [READY], generation=1, now=T1) == first


def test_the_transition_time_changes_only_when_the_status_flips() -> None:
    """A new reason or message alone is no transition."""
    first = merge([], [NOT_READY], generation=1, now=T0)
    worse = Condition.false(ConditionType.READY, "ConfigRefused", "other words")
    second = merge(first, [worse], generation=2, now=T1)
    ready = only(second, ConditionType.READY)
    assert (ready["lastTransitionTime"], ready["reason"]) == ("2026-11-24T12:00:00Z", "ConfigRefused")
    third = merge(second, [READY], generation=2, now=T1)
    assert only(third, ConditionType.READY)["lastTransitionTime"] == "2026-11-24T12:05:00Z"


def test_every_condition_says_which_generation_it_is_about() -> None:
    """One that was not looked at this time keeps the generation that it was about."""
    first = merge([], [READY, Condition.true(ConditionType.ENFORCED, "All")], generation=1, now=T0)
    second = merge(first, [READY], generation=2, now=T1)
    assert only(second, ConditionType.READY)["observedGeneration"] == 2
    assert only(second, ConditionType.ENFORCED)["observedGeneration"] == 1


@pytest.mark.parametrize("kind", [ConditionType.RECONCILING, ConditionType.STALLED])
def test_kstatus_conditions_are_present_only_while_true(kind: ConditionType) -> None:
    """kstatus reads their presence; False would be noise, and a stale True would block a pipeline."""
    during = merge([], [Condition.true(kind, "Why")], generation=1, now=T0)
    assert only(during, kind)["status"] == "True"
    assert [item for item in merge(during, [], generation=1, now=T1) if item["type"] == kind] == []
    said_false = merge(during, [Condition.false(kind, "Done")], generation=1, now=T1)
    assert [item for item in said_false if item["type"] == kind] == []


def test_missing_is_unknown() -> None:
    """A condition that is not there says nothing, neither yes nor no."""
    assert status_of([], ConditionType.READY) is Status.UNKNOWN
    assert status_of(merge([], [READY], generation=1, now=T0), ConditionType.READY) is Status.TRUE


def test_what_flipped_is_what_deserves_an_event() -> None:
    """A changed status or reason; not a changed message, and not a refreshed generation."""
    before = merge([], [NOT_READY], generation=1, now=T0)
    chatty = Condition.false(ConditionType.READY, "PodsDown", "still 0 of 1 pods")
    assert flipped(before, merge(before, [chatty], generation=2, now=T1)) == []
    after = merge(before, [READY], generation=2, now=T1)
    assert [item["type"] for item in flipped(before, after)] == ["Ready"]


def test_a_reason_that_the_api_refuses_is_refused_here() -> None:
    """The whole status would be rejected for it."""
    with pytest.raises(ValueError, match="CamelCase"):
        Condition.true(ConditionType.READY, "not a word")


def test_a_condition_fits_the_status_schema() -> None:
    """The API server checks the same model."""
    long = Condition.false(ConditionType.READY, "Why", "x" * 40_000)
    for item in merge([], [long], generation=1, now=T0):
        StatusCondition.model_validate(item)


def test_times_are_written_in_utc_with_whole_seconds() -> None:
    """metav1.Time has no fractions; a local time would be read as another instant."""
    assert timestamp(datetime(2026, 1, 1, 1, 30, 0, 999, tzinfo=timezone(timedelta(hours=1)))) == (
        "2026-01-01T00:30:00Z"
    )
