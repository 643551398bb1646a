"""Sliding windows in this process: the same arithmetic as ``scripts/admit.lua``."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from cachepolicy_runtime.store.port import Admission, LimitCheck, RateState, WindowRate

SUB_BUCKETS = 10
#: The current sub-bucket and the ten before it, the oldest counted in full.
COUNTED = SUB_BUCKETS + 1


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


class _Window:
    """The sub-buckets of one window, as a ring: bucket ``n`` lies at ``n % COUNTED``."""

    __slots__ = ("counts", "filled", "newest", "sub_us", "used")

    def __init__(self, window_ms: int) -> None:
        self.sub_us = window_ms * 1000 // SUB_BUCKETS
        self.newest = 0
        self.filled = 0
        self.used = 0
        self.counts = [0] * COUNTED

    def advance(self, now_us: int) -> None:
        current = now_us // self.sub_us
        if current <= self.newest:
            return
        for bucket in range(max(self.newest + 1, current - SUB_BUCKETS), current + 1):
            self.used -= self.counts[bucket % COUNTED]
            self.counts[bucket % COUNTED] = 0
        self.newest = current

    def add(self, units: int) -> None:
        self.counts[self.newest % COUNTED] += units
        self.used += units
        self.filled = self.newest

    def reset_ms(self, now_us: int) -> int:
        """Whatever is used, the bucket filled last is the last to leave."""
        return self._leaves_ms(self.newest - self.filled, now_us) if self.used else 0

    def retry_ms(self, weight: int, limit: int, now_us: int) -> int:
        used = self.used
        for age in range(SUB_BUCKETS, -1, -1):
            used -= self._at(age)
            if self._at(age) and used + weight <= limit:
                return self._leaves_ms(age, now_us)
        return self._leaves_ms(0, now_us)

    def _at(self, age: int) -> int:
        return self.counts[(self.newest - age) % COUNTED]

    def _leaves_ms(self, age: int, now_us: int) -> int:
        return -((now_us - (self.newest - age + COUNTED) * self.sub_us) // 1000)


class MemoryLimitStore:
    """Bounded: at ``max_windows`` the window that was asked longest ago is forgotten."""

    def __init__(self, now_us: Callable[[], int] = monotonic_us, max_windows: int = 100_000) -> None:
        self._now_us = now_us
        self._max_windows = max_windows
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    async def admit(self, checks: Sequence[LimitCheck]) -> Admission:
        return self.decide(checks)

    def decide(self, checks: Sequence[LimitCheck]) -> Admission:
        """:meth:`admit` for a caller that cannot wait."""
        now_us = self._now_us()
        asked = [[(rate, self._window(rate, now_us)) for rate in check.rates] for check in checks]
        rooms = [
            [window.used + check.weight <= rate.limit for rate, window in windows]
            for check, windows in zip(checks, asked, strict=True)
        ]
        admitted = all(all(room) for room in rooms)
        if admitted:
            for check, windows in zip(checks, asked, strict=True):
                for _, window in windows:
                    window.add(check.weight)
        states = tuple(
            tuple(
                RateState(
                    max(0, rate.limit - window.used),
                    window.reset_ms(now_us),
                    0 if room else window.retry_ms(check.weight, rate.limit, now_us),
                )
                for (rate, window), room in zip(windows, has_room, strict=True)
            )
            for check, windows, has_room in zip(checks, asked, rooms, strict=True)
        )
        return Admission(admitted, states)

    def _window(self, rate: WindowRate, now_us: int) -> _Window:
        window = self._windows.get(rate.key)
        if window is None:
            window = self._windows[rate.key] = _Window(rate.window_ms)
            if len(self._windows) > self._max_windows:
                self._windows.popitem(last=False)
        else:
            self._windows.move_to_end(rate.key)
        window.advance(now_us)
        return window
