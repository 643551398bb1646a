"""The sliding window against an exact log of what was admitted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.store.port import LimitCheck, WindowRate


class Clock:
    """Microseconds that only a test moves."""

    def __init__(self, now: int = 10_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def check(limit: int, window_ms: int, weight: int = 1, key: str = "k") -> LimitCheck:
    return LimitCheck((WindowRate(key, limit, window_ms),), weight)


steps = st.lists(st.tuples(st.integers(0, 400_000), st.integers(1, 4)), max_size=80)


@given(
    steps=steps,
    limit=st.integers(1, 12),
    window_ms=st.sampled_from([1, 7, 100, 1000]),
    start=st.integers(0, 10**7),
)
def test_no_true_window_ever_holds_more_than_the_limit(
    steps: list[tuple[int, int]], limit: int, window_ms: int, start: int
) -> None:
    clock, log = Clock(start), list[tuple[int, int]]()
    store = MemoryLimitStore(clock)
    for pause, weight in steps:
        clock.now += pause
        if store.decide([check(limit, window_ms, weight)]).admitted:
            log.append((clock.now, weight))
        within = sum(units for at, units in log if at > clock.now - window_ms * 1000)
        assert within <= limit


@given(steps=steps, limit=st.integers(1, 12), window_ms=st.sampled_from([100, 1000]))
def test_what_was_used_is_back_at_most_a_tenth_of_the_window_late(
    steps: list[tuple[int, int]], limit: int, window_ms: int
) -> None:
    clock, log = Clock(), list[tuple[int, int]]()
    store = MemoryLimitStore(clock)
    for pause, weight in steps:
        clock.now += pause
        within = sum(units for at, units in log if at > clock.now - window_ms * 1100)
        admitted = store.decide([check(limit, window_ms, weight)]).admitted
        assert admitted or within + weight > limit
        if admitted:
            log.append((clock.now, weight))


@given(steps=steps, limit=st.integers(1, 12), weight=st.integers(1, 4))
def test_waiting_for_as_long_as_a_refusal_says_is_enough_and_not_too_much(
    steps: list[tuple[int, int]], limit: int, weight: int
) -> None:
    clock = Clock()
    store = MemoryLimitStore(clock)
    for pause, units in steps:
        clock.now += pause
        store.decide([check(limit, 1000, units)])
    ((state,),) = store.decide([check(limit, 1000, weight)]).states
    if state.retry_ms and weight <= limit:
        clock.now += (state.retry_ms - 1) * 1000
        assert not store.decide([check(limit, 1000, weight)]).admitted
        clock.now += 1000
        assert store.decide([check(limit, 1000, weight)]).admitted


@given(steps=steps, limit=st.integers(1, 12))
def test_after_the_reset_time_the_whole_limit_is_free(steps: list[tuple[int, int]], limit: int) -> None:
    clock = Clock()
    store = MemoryLimitStore(clock)
    for pause, units in steps:
        clock.now += pause
        store.decide([check(limit, 1000, units)])
    probe = check(limit, 1000, limit + 1)
    clock.now += store.decide([probe]).states[0][0].reset_ms * 1000
    assert store.decide([probe]).states[0][0].remaining == limit


def test_a_burst_at_the_edge_of_a_window_does_not_get_the_limit_twice() -> None:
    clock = Clock(0)
    store = MemoryLimitStore(clock)
    admitted = 0
    for at in range(900_000, 1_900_000, 1_000):
        clock.now = at
        admitted += store.decide([check(100, 1000)]).admitted
    assert admitted == 100


def test_a_clock_that_is_set_back_frees_nothing() -> None:
    clock = Clock()
    store = MemoryLimitStore(clock)
    assert store.decide([check(1, 1000)]).admitted
    clock.now -= 5_000_000
    assert not store.decide([check(1, 1000)]).admitted


def test_memory_is_bounded_and_a_window_in_use_is_not_the_one_forgotten() -> None:
    store = MemoryLimitStore(Clock(), max_keys=3)
    assert store.decide([check(1, 1000, key="used")]).admitted
    for number in range(10):
        store.decide([check(1, 1000, key=f"other-{number}")])
        assert not store.decide([check(1, 1000, key="used")]).admitted
