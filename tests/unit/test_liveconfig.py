"""Live configuration: what is set, what is written, what is refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cachepolicy_operator.liveconfig import (
    Attempt,
    LiveInputs,
    LivePlan,
    Outcome,
    Running,
    managed_keys,
    pending_restart,
    plan,
    running_maxmemory,
    worth_keeping,
)
from cachepolicy_operator.resources.inputs import LiveDirective

RECORD = LiveDirective(requested="1gb", accepted="1073741824", initial="0")


def accepted(before: str, after: str) -> Attempt:
    return Attempt(Outcome.ACCEPTED, before, after)


def refused(reason: str = "must be positive") -> Attempt:
    return Attempt(Outcome.REJECTED, reason=reason)


IMMUTABLE = Attempt(Outcome.IMMUTABLE, reason="can't set immutable config")


def planned(
    wanted: Mapping[str, str] | None = None,
    *,
    own: Mapping[str, str] | None = None,
    live: Mapping[str, LiveDirective] | None = None,
    restart: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
    attempts: Mapping[tuple[str, str], Attempt] | None = None,
) -> LivePlan:
    running = None if values is None else Running(values, attempts or {})
    return plan(LiveInputs(own or {}, wanted or {}, live or {}, restart or {}, running))


def test_a_new_directive_is_sent_first_and_written_only_after_the_server_took_it() -> None:
    first = planned({"hz": "20"}, values={"hz": "10"})
    assert (first.to_set, first.live) == ({"hz": "20"}, {})
    then = planned({"hz": "20"}, values={"hz": "20"}, attempts={("hz", "20"): accepted("10", "20")})
    assert then.to_set == {}
    assert then.live == {"hz": LiveDirective("20", "20", "10")}
    assert then.settled


def test_the_file_gets_the_servers_spelling_and_keeps_what_was_asked_for() -> None:
    found = planned(
        {"x": "1gb"}, values={"x": "1073741824"}, attempts={("x", "1gb"): accepted("0", "1073741824")}
    )
    assert found.live == {"x": RECORD}


def test_at_rest_nothing_is_sent_and_nothing_changes() -> None:
    found = planned({"x": "1gb"}, live={"x": RECORD}, values={"x": "1073741824"})
    assert (found.to_set, found.live, found.settled) == ({}, {"x": RECORD}, True)


def test_a_foreign_change_is_set_right_without_touching_the_file() -> None:
    found = planned({"x": "1gb"}, live={"x": RECORD}, values={"x": "7"})
    assert (found.to_set, found.live) == ({"x": "1073741824"}, {"x": RECORD})


def test_a_foreign_change_back_and_forth_is_set_right_each_time() -> None:
    """That a value was taken once is no reason to believe that it is still there."""
    earlier = {("x", "1073741824"): accepted("7", "1073741824")}
    found = planned({"x": "1gb"}, live={"x": RECORD}, values={"x": "8"}, attempts=earlier)
    assert found.to_set == {"x": "1073741824"}


def test_an_immutable_directive_moves_to_the_restart_file() -> None:
    found = planned({"databases": "4"}, values={"databases": "16"}, attempts={("databases", "4"): IMMUTABLE})
    assert (found.restart, found.live, found.to_set) == ({"databases": "4"}, {}, {})


def test_a_directive_known_to_need_a_restart_is_not_asked_again() -> None:
    """Also without a server: a value that keeps Redis from starting is repaired this way."""
    for values in ({"databases": "4"}, None):
        found = planned({"databases": "8"}, restart={"databases": "4"}, values=values)
        assert (found.restart, found.to_set, found.waiting) == ({"databases": "8"}, {}, ())


def test_a_restart_directive_that_left_the_spec_leaves_the_file() -> None:
    assert planned({}, restart={"databases": "4"}, values={"databases": "4"}).restart == {}


def test_a_refused_directive_never_reaches_the_file() -> None:
    found = planned({"hz": "x"}, values={"hz": "10"}, attempts={("hz", "x"): refused()})
    assert (found.rejected, found.live, found.to_set) == ({"hz": "must be positive"}, {}, {})


def test_a_refused_value_keeps_the_last_good_one_in_file_and_server() -> None:
    attempts = {("x", "bad"): refused()}
    kept = planned({"x": "bad"}, live={"x": RECORD}, values={"x": "1073741824"}, attempts=attempts)
    assert (kept.live, kept.to_set) == ({"x": RECORD}, {})
    assert kept.rejected == {"x": "must be positive"}
    changed = planned({"x": "bad"}, live={"x": RECORD}, values={"x": "7"}, attempts=attempts)
    assert changed.to_set == {"x": "1073741824"}


def test_what_a_server_refused_is_not_sent_to_it_again() -> None:
    attempts = {("x", "1073741824"): refused("not now")}
    found = planned({"x": "1gb"}, live={"x": RECORD}, values={"x": "7"}, attempts=attempts)
    assert (found.to_set, found.rejected) == ({}, {"x": "not now"})


def test_a_directive_that_another_image_does_not_know_leaves_the_file() -> None:
    """The next start would fail on it."""
    attempts = {("x", "1073741824"): refused("Unknown option")}
    found = planned({"x": "1gb"}, live={"x": RECORD}, values={}, attempts=attempts)
    assert (found.live, found.rejected) == ({}, {"x": "Unknown option"})


def test_a_removed_directive_goes_back_to_its_initial_value_and_then_out_of_the_file() -> None:
    first = planned({}, live={"x": RECORD}, values={"x": "1073741824"})
    assert (first.to_set, first.live) == ({"x": "0"}, {"x": RECORD})
    then = planned({}, live={"x": RECORD}, values={"x": "0"})
    assert (then.to_set, then.live) == ({}, {})


@pytest.mark.parametrize("values", [None, {"x": "1073741824"}])
def test_a_removed_directive_leaves_the_file_where_the_server_cannot_take_it_back(
    values: Mapping[str, str] | None,
) -> None:
    """The next start brings the default."""
    attempts = {("x", "0"): refused()}
    assert planned({}, live={"x": RECORD}, values=values, attempts=attempts).live == {}


def test_without_a_server_the_file_stays_as_it_is_and_new_directives_wait() -> None:
    found = planned({"x": "1gb", "hz": "20"}, live={"x": RECORD})
    assert (found.live, found.waiting, found.to_set) == ({"x": RECORD}, ("hz",), {})
    assert not found.settled


def test_another_version_that_spells_a_value_in_another_way_is_followed() -> None:
    attempts = {("x", "1073741824"): accepted("1g", "1g")}
    found = planned({"x": "1gb"}, live={"x": RECORD}, values={"x": "1g"}, attempts=attempts)
    assert (found.to_set, found.live["x"].accepted) == ({}, "1g")


def test_the_operators_own_directives_are_repaired_and_never_in_the_users_file() -> None:
    found = planned(own={"appendfsync": "everysec"}, values={"appendfsync": "no"})
    assert (found.to_set, found.live) == ({"appendfsync": "everysec"}, {})
    assert planned(own={"appendfsync": "everysec"}, values={}).to_set == {}, "unknown to this server"


def test_a_users_value_wins_over_the_operators_own() -> None:
    record = LiveDirective("no", "no", "everysec")
    found = planned(
        {"appendfsync": "no"},
        own={"appendfsync": "everysec"},
        live={"appendfsync": record},
        values={"appendfsync": "no"},
    )
    assert (found.to_set, found.live) == ({}, {"appendfsync": record})
    removed = planned(
        {}, own={"appendfsync": "everysec"}, live={"appendfsync": record}, values={"appendfsync": "no"}
    )
    assert (removed.to_set, removed.live) == ({"appendfsync": "everysec"}, {})


def test_everything_managed_is_read() -> None:
    inputs = LiveInputs({"a": "1"}, {"b": "1"}, {"c": RECORD}, {"d": "1"})
    assert managed_keys(inputs) == ("a", "b", "c", "d")


def test_pending_is_what_differs_from_what_the_pod_was_started_with() -> None:
    assert pending_restart({"a": "1", "b": "2"}, {"b": "3", "c": "4"}) == ("a", "b", "c")
    assert pending_restart({"a": "1"}, {"a": "1"}) == ()


def test_whoever_returns_to_an_old_value_asks_again() -> None:
    attempts = {("x", "1"): accepted("0", "1"), ("x", "2"): accepted("1", "2")}
    kept = worth_keeping(attempts, LiveInputs({}, {"x": "2"}), planned({}))
    assert set(kept) == {("x", "2")}


@pytest.mark.parametrize(
    ("wanted", "pod_allows", "current", "used", "expected"),
    [
        pytest.param(200, 100, 100, 50, 100, id="raising waits for a pod with the memory"),
        pytest.param(200, 200, 100, 50, 200, id="raised once the pod has it"),
        pytest.param(50, 100, 100, 40, 50, id="lowered when the data fits"),
        pytest.param(50, 100, 100, 60, 100, id="kept while it does not: writes would fail"),
        pytest.param(50, 100, 0, 60, 50, id="unlimited is never kept"),
    ],
)
def test_maxmemory_follows_the_memory_limit_without_a_write_outage(
    wanted: int, pod_allows: int, current: int, used: int, expected: int
) -> None:
    found = running_maxmemory(wanted=wanted, pod_allows=pod_allows, current=current, used=used, evicts=False)
    assert found == expected


def test_maxmemory_of_a_server_that_evicts_is_lowered_at_once() -> None:
    assert running_maxmemory(wanted=50, pod_allows=100, current=100, used=60, evicts=True) == 50
