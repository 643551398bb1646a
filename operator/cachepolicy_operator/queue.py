"""The work queue: CachePolicies that have to be looked at, each at most once, and one worker for each at a time.

A key that is added while its worker runs is worked on again afterwards, for what happened meanwhile may have been
missed. A failure is repeated after 1 s, 2 s, 4 s… up to 5 min, with jitter; a success forgets the failures.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from cachepolicy_operator import errors

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 300.0

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """A CachePolicy."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Timer(Protocol):
    """What ``later`` gives back."""

    def cancel(self) -> None: ...
    def when(self) -> float: ...


class Clock(Protocol):
    """Time in seconds and calls at a later time; an asyncio event loop is one."""

    def time(self) -> float: ...
    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer: ...


Work = Callable[[Key], Awaitable[float | None]]
"""Works on one key. Returns the seconds after which to look again, None for "when something happens"."""


class Gate:
    """Keeps keys until somebody opens it; from then on they pass."""

    def __init__(self, add: Callable[[Key], None]) -> None:
        self._add = add
        self._kept: dict[Key, None] | None = {}

    def add(self, key: Key) -> None:
        if self._kept is None:
            self._add(key)
        else:
            self._kept[key] = None

    def open(self) -> None:
        kept, self._kept = self._kept or {}, None
        for key in kept:
            self._add(key)


class WorkQueue:
    """See the module. ``work`` raises errors of the operator to be called again; any other exception as well."""

    def __init__(
        self,
        work: Work,
        *,
        workers: int = 8,
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._work = work
        self._workers = workers
        self._clock: Clock = clock or asyncio.get_running_loop()
        self._jitter = jitter
        self._ready: dict[Key, float] = {}
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._since: dict[Key, float] = {}
        self._again: set[Key] = set()
        self._timers: dict[Key, Timer] = {}
        self._failures: dict[Key, int] = {}
        self._closed = False

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._ready)

    @property
    def oldest_seconds(self) -> float:
        """How long the key that waits or is worked on for longest has done so; 0 when there is none."""
        started = min([*self._ready.values(), *self._since.values()], default=None)
        return 0.0 if started is None else self._clock.time() - started

    def failures(self, key: Key) -> int:
        """How often work on this key has failed in a row."""
        return self._failures.get(key, 0)

    def add(self, key: Key) -> None:
        """Work on ``key`` as soon as a worker is free."""
        if self._closed:
            return
        self._cancel_timer(key)
        if key in self._running:
            self._again.add(key)
        elif key not in self._ready:
            self._ready[key] = self._clock.time()
            self._start()

    def add_later(self, key: Key, seconds: float) -> None:
        """Work on ``key`` after ``seconds``, or sooner where something sooner is planned."""
        if self._closed or key in self._ready or key in self._again:
            return
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= self._clock.time() + seconds:
            return
        self._cancel_timer(key)
        self._timers[key] = self._clock.call_later(seconds, lambda: self._ring(key))

    async def drain(self, seconds: float) -> bool:
        """Take nothing more and let the running workers finish for ``seconds``; True when they all did."""
        self._closed = True
        for key in list(self._timers):
            self._cancel_timer(key)
        self._ready.clear()
        running = list(self._running.values())
        if not running:
            return True
        _, pending = await asyncio.wait(running, timeout=seconds)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return not pending

    # ------------------------------------------------------------------------------------------- inside

    def _ring(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _start(self) -> None:
        while self._ready and len(self._running) < self._workers:
            key = next(iter(self._ready))
            del self._ready[key]
            self._since[key] = self._clock.time()
            self._running[key] = asyncio.create_task(self._run(key), name=f"reconcile {key}")

    async def _run(self, key: Key) -> None:
        pause: float | None = None
        try:
            pause = await self._work(key)
            self._failures.pop(key, None)
        except errors.Superseded as error:
            pause = self._failed(key, error)
            log.debug("looked at again: %s", error)
        except errors.OperatorError as error:
            pause = self._failed(key, error)
            log.warning("%s; again in %.1f s", error, pause)
        except Exception:
            pause = self._failed(key, None)
            log.exception("unexpected error; again in %.1f s", pause)
        finally:
            self._finish(key, pause)

    def _failed(self, key: Key, error: errors.OperatorError | None) -> float:
        failures = self._failures[key] = self.failures(key) + 1
        if isinstance(error, errors.RetryLater) and error.after is not None:
            return error.after
        if isinstance(error, errors.Superseded) and failures == 1:
            return 0.0
        pause = min(FIRST_PAUSE * 2.0 ** (failures - 1), LONGEST_PAUSE)
        # Half of it fixed, half of it random: policies that failed together do not come back together.
        return pause * (0.5 + 0.5 * self._jitter())

    def _finish(self, key: Key, pause: float | None) -> None:
        del self._running[key], self._since[key]
        if key in self._again:
            self._again.discard(key)
            # After a failure not at once: what was added may be the echo of our own writes.
            pause = min(pause, FIRST_PAUSE) if pause is not None and self.failures(key) else 0.0
        if pause == 0.0:
            self.add(key)
        elif pause is not None:
            self.add_later(key, pause)
        self._start()
