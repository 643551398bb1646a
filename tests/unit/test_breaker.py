"""When a server is no longer asked, and when it is again."""

from __future__ import annotations

from cachepolicy_runtime.store.breaker import Breaker, BreakerSettings, Change, State


class Scene:
    """A breaker with a clock that the test moves and the changes that it told."""

    def __init__(self, failures_to_open: int = 1) -> None:
        self.now = 100.0
        self.changes: list[Change] = []
        settings = BreakerSettings(failures_to_open, first_pause_s=0.25, longest_pause_s=1.0)
        self.breaker = Breaker(lambda: self.now, self.changes.append, settings)


def test_as_many_failures_in_a_row_as_set_open_it_of_whatever_kind() -> None:
    scene = Scene(failures_to_open=3)
    for reason in ("no answer", "connection refused"):
        scene.breaker.failed(reason)
    assert scene.breaker.closed
    scene.breaker.failed("the server answered LOADING")
    assert not scene.breaker.closed
    assert scene.breaker.reason == "the server answered LOADING"


def test_an_answer_in_between_starts_the_count_again() -> None:
    scene = Scene(failures_to_open=2)
    for _ in range(5):
        scene.breaker.failed("no answer")
        scene.breaker.succeeded()
    assert scene.breaker.closed


def test_one_probe_goes_out_after_the_pause_and_no_second() -> None:
    scene = Scene()
    scene.breaker.failed("no answer")
    assert not scene.breaker.begin_probe()
    scene.now += 0.25
    assert scene.breaker.begin_probe()
    assert not scene.breaker.begin_probe()
    assert scene.breaker.state is State.HALF_OPEN


def test_a_probe_that_fails_waits_twice_as_long_up_to_the_bound() -> None:
    scene, pauses = Scene(), []
    scene.breaker.failed("no answer")
    for _ in range(4):
        pauses.append(scene.breaker.pause_left_s())
        scene.now += pauses[-1]
        assert scene.breaker.begin_probe()
        scene.breaker.failed("no answer")
    assert pauses == [0.25, 0.5, 1.0, 1.0]
    assert scene.breaker.opened == 1, "it is one outage however often somebody looked"


def test_a_probe_that_is_answered_closes_it() -> None:
    scene = Scene()
    scene.breaker.failed("no answer")
    scene.now += 3
    scene.breaker.begin_probe()
    scene.breaker.succeeded()
    assert scene.breaker.closed
    assert scene.breaker.reason == ""


def test_a_straggler_neither_closes_it_nor_counts_again() -> None:
    scene = Scene()
    scene.breaker.failed("no answer")
    scene.breaker.succeeded()
    scene.breaker.failed("no answer")
    assert scene.breaker.state is State.OPEN
    assert scene.breaker.pause_left_s() == 0.25


def test_each_change_is_told_once_however_long_the_outage() -> None:
    scene = Scene()
    for _ in range(5):
        scene.breaker.failed("connection refused")
        scene.now += 2
        scene.breaker.begin_probe()
    scene.breaker.succeeded()
    assert scene.changes == [Change(False, "connection refused", 0.0), Change(True, "", 10.0)]


def test_a_second_outage_starts_with_the_short_pause_again() -> None:
    scene = Scene()
    for _ in range(2):
        scene.breaker.failed("no answer")
        assert scene.breaker.pause_left_s() == 0.25
        scene.now += 0.25
        scene.breaker.begin_probe()
        scene.breaker.succeeded()
