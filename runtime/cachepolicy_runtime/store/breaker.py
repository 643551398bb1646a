"""When to stop asking a server, and when to try again. Pure: the clock is passed in, nothing sleeps here.

Closed, calls go out. ``failures_to_open`` failures in a row, of whatever kind, open it: calls are refused at
once. After a pause one probe may go out (half-open); its answer closes the breaker, its failure opens it
again for twice as long, up to ``longest_pause_s``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import assert_never


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Change:
    """What to tell people: available or not, why not, and how long it was away (seconds, 0 when it goes)."""

    available: bool
    reason: str
    away_s: float


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Failures in a row that open it; seconds before the first probe and at most between probes."""

    failures_to_open: int = 1
    first_pause_s: float = 0.25
    longest_pause_s: float = 1.0


class Breaker:
    """Counts failures and decides; ``on_change`` is called once when the server goes and once when it is back."""

    def __init__(
        self,
        clock: Callable[[], float],
        on_change: Callable[[Change], None],
        settings: BreakerSettings | None = None,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._settings = settings or BreakerSettings()
        self._state = State.CLOSED
        self._failures = 0
        self._pause_s = 0.0
        self._retry_at = 0.0
        self._opened_at = 0.0
        self._reason = ""
        #: How often it opened: outages since the start.
        self.opened = 0

    @property
    def state(self) -> State:
        return self._state

    @property
    def closed(self) -> bool:
        return self._state is State.CLOSED

    @property
    def reason(self) -> str:
        """Why it is open; empty when it is closed."""
        return self._reason

    def pause_left_s(self) -> float:
        """Seconds until a probe may go out; 0 when one may."""
        return max(0.0, self._retry_at - self._clock())

    def begin_probe(self) -> bool:
        """Whether the caller may send the one probe now."""
        if self._state is not State.OPEN or self.pause_left_s() > 0:
            return False
        self._state = State.HALF_OPEN
        return True

    def succeeded(self) -> None:
        """An answer came. While it is open only the probe's counts: a straggler proves nothing about now."""
        self._failures = 0
        if self._state is State.HALF_OPEN:
            self._state = State.CLOSED
            self._reason = ""
            self._on_change(Change(True, "", self._clock() - self._opened_at))

    def failed(self, reason: str) -> None:
        """A call, a connection, a script or a probe failed."""
        match self._state:
            case State.CLOSED:
                self._failures += 1
                if self._failures >= self._settings.failures_to_open:
                    self._open(reason)
            case State.HALF_OPEN:
                self._reason = reason
                self._wait(min(self._pause_s * 2, self._settings.longest_pause_s))
            case State.OPEN:
                pass  # an echo of calls that were under way when it opened
            case _ as never:
                assert_never(never)

    def _open(self, reason: str) -> None:
        self._opened_at = self._clock()
        self._reason = reason
        self.opened += 1
        self._wait(self._settings.first_pause_s)
        self._on_change(Change(False, reason, 0.0))

    def _wait(self, pause_s: float) -> None:
        self._state = State.OPEN
        self._pause_s = pause_s
        self._retry_at = self._clock() + pause_s
