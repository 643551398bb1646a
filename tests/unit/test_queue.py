"""The work queue, under a clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from cachepolicy_operator import errors
from cachepolicy_operator.queue import Key, WorkQueue

A, B = Key("ns", "a"), Key("ns", "b")


@dataclass
class FakeTimer:
    due: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def when(self) -> float:
        return self.due


@dataclass
class FakeClock:
    now: float = 1000.0
    timers: list[FakeTimer] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.now + delay, callback)
        self.timers.append(timer)
        return timer

    @property
    def pauses(self) -> list[float]:
        return [timer.due - self.now for timer in self.timers if not timer.cancelled]

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.due <= self.now]
        self.timers = [timer for timer in self.timers if timer.due > self.now]
        for timer in due:
            if not timer.cancelled:
                timer.callback()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@dataclass
class Worker:
    """Records calls; each ends as ``results`` says, after ``gate`` where there is one."""

    results: list[float | Exception | None] = field(default_factory=list)
    gate: asyncio.Event | None = None
    calls: list[Key] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def __call__(self, key: Key) -> float | None:
        self.calls.append(key)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.running -= 1
        result = self.results.pop(0) if self.results else None
        if isinstance(result, Exception):
            raise result
        return result


def made(worker: Worker, clock: FakeClock, workers: int = 8) -> WorkQueue:
    return WorkQueue(worker, workers=workers, clock=clock, jitter=lambda: 1.0)


async def test_a_key_that_waits_is_there_once() -> None:
    worker, clock = Worker(gate=asyncio.Event()), FakeClock()
    queue = made(worker, clock, workers=1)
    queue.add(A)
    for _ in range(3):
        queue.add(B)
    await settle()
    assert (worker.calls, len(queue)) == ([A], 1)
    assert worker.gate is not None
    worker.gate.set()
    await settle()
    assert worker.calls == [A, B]


async def test_a_key_is_worked_on_by_one_worker_at_a_time_and_again_for_what_came_meanwhile() -> None:
    worker, clock = Worker(gate=asyncio.Event()), FakeClock()
    queue = made(worker, clock)
    queue.add(A)
    await settle()
    queue.add(A)
    queue.add(A)
    await settle()
    assert worker.calls == [A]
    assert worker.gate is not None
    worker.gate.set()
    await settle()
    assert (worker.calls, worker.most) == ([A, A], 1)


async def test_no_more_workers_than_allowed() -> None:
    worker, clock = Worker(gate=asyncio.Event()), FakeClock()
    queue = made(worker, clock, workers=3)
    for number in range(10):
        queue.add(Key("ns", str(number)))
    await settle()
    assert worker.running == 3
    assert worker.gate is not None
    worker.gate.set()
    await settle()
    assert (len(worker.calls), worker.most) == (10, 3)


async def test_failures_are_repeated_after_pauses_that_double_up_to_five_minutes() -> None:
    worker, clock = Worker([errors.Forbidden("no")] * 12), FakeClock()
    queue = made(worker, clock)
    queue.add(A)
    await settle()
    pauses = []
    for _ in range(11):
        (pause,) = clock.pauses
        pauses.append(pause)
        await clock.advance(pause)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


async def test_an_unexpected_error_is_repeated_as_well() -> None:
    worker, clock = Worker([ValueError("bug")]), FakeClock()
    queue = made(worker, clock)
    queue.add(A)
    await settle()
    assert clock.pauses == [1.0]


async def test_a_success_forgets_the_failures() -> None:
    worker, clock = (
        Worker([errors.Forbidden("no"), errors.Forbidden("no"), None, errors.Forbidden("no")]),
        FakeClock(),
    )
    queue = made(worker, clock)
    queue.add(A)
    await settle()
    await clock.advance(1)
    await clock.advance(2)
    assert queue.failures(A) == 0
    queue.add(A)
    await settle()
    assert clock.pauses == [1.0]


async def test_the_other_sides_own_pause_is_kept() -> None:
    worker, clock = Worker([errors.Throttled("slow down", after=17.0)]), FakeClock()
    queue = made(worker, clock)
    queue.add(A)
    await settle()
    assert clock.pauses == [17.0]


async def test_what_was_overtaken_is_looked_at_again_at_once_and_then_with_pauses() -> None:
    worker, clock = Worker([errors.Conflict("moved"), errors.Conflict("moved"), None]), FakeClock()
    queue = made(worker, clock)
    queue.add(A)
    await settle()
    assert worker.calls == [A, A]
    assert clock.pauses == [2.0]


async def test_work_says_when_to_look_again_and_the_sooner_of_two_times_counts() -> None:
    worker, clock = Worker([60.0]), FakeClock()
    queue = made(worker, clock)
    queue.add(A)
    await settle()
    queue.add_later(A, 90)
    assert clock.pauses == [60.0]
    queue.add_later(A, 5)
    assert clock.pauses == [5.0]
    await clock.advance(5)
    assert worker.calls == [A, A]


async def test_an_event_after_a_failure_does_not_wait_for_the_pause() -> None:
    """The fix of a bad spec is taken at once, however often it failed."""
    worker, clock = Worker([errors.Forbidden("no")] * 3), FakeClock()
    queue = made(worker, clock)
    queue.add(A)
    await settle()
    queue.add(A)
    await settle()
    assert worker.calls == [A, A]


async def test_the_echo_of_our_own_writes_does_not_turn_a_failure_into_a_busy_loop() -> None:
    worker, clock = Worker([errors.Forbidden("no")] * 3, gate=asyncio.Event()), FakeClock()
    queue = made(worker, clock)
    queue.add(A)
    await settle()
    queue.add(A)
    assert worker.gate is not None
    worker.gate.set()
    await settle()
    assert (worker.calls, clock.pauses) == ([A], [1.0])


async def test_the_age_of_the_oldest_item_counts_waiting_and_working() -> None:
    worker, clock = Worker(gate=asyncio.Event()), FakeClock()
    queue = made(worker, clock)
    assert queue.oldest_seconds == 0
    queue.add(A)
    await settle()
    clock.now += 400
    assert queue.oldest_seconds == 400


async def test_draining_lets_running_work_end_and_takes_no_more() -> None:
    worker, clock = Worker(gate=asyncio.Event()), FakeClock()
    queue = made(worker, clock, workers=1)
    queue.add(A)
    queue.add(B)
    await settle()
    assert worker.gate is not None
    worker.gate.set()
    assert await queue.drain(5)
    queue.add(A)
    await settle()
    assert worker.calls == [A]


async def test_draining_ends_what_does_not_end() -> None:
    worker, clock = Worker(gate=asyncio.Event()), FakeClock()
    queue = made(worker, clock)
    queue.add(A)
    await settle()
    assert not await queue.drain(0)
    assert worker.running == 0
