"""Limits in this process: the same arithmetic as ``scripts/limits.lua``, on this process's clock."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

from cachepolicy_runtime.store.port import (
    Adjustment,
    Admission,
    Check,
    Lease,
    LeaseCheck,
    LimitCheck,
    RateState,
    WindowRate,
)

SUB_BUCKETS = 10
#: The current sub-bucket and the ten before it, the oldest counted in full.
COUNTED = SUB_BUCKETS + 1
#: What a caller without a slot is told to wait: nobody knows when a request ends.
SLOT_RETRY_MS = 1000


_new = tuple.__new__


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

    def fits(self, units: int, limit: int) -> bool:
        return self.used + units <= limit

    def add(self, units: int, now_us: int) -> None:
        self.counts[self.newest % COUNTED] += units
        self.used += units
        if units:
            self.filled = self.newest

    def adjust(self, at_us: int, units: int) -> None:
        bucket = at_us // self.sub_us
        if self.newest - SUB_BUCKETS <= bucket <= self.newest:
            units = max(units, -self.counts[bucket % COUNTED])
            self.counts[bucket % COUNTED] += units
            self.used += units
            self.filled = max(self.filled, bucket)

    def reset_ms(self, now_us: int) -> int:
        """The newest bucket that holds something is the last to leave."""
        if not self.used:
            return 0
        while not self.counts[self.filled % COUNTED]:  # what was in it was given back
            self.filled -= 1
        return self._leaves_ms(self.newest - self.filled, now_us)

    def retry_ms(self, units: int, limit: int, now_us: int) -> int:
        """A weight above the limit never has room; it is told the whole window."""
        used = self.used
        for age in range(SUB_BUCKETS, -1, -1):
            used -= self._at(age)
            if self._at(age) and used + units <= limit:
                return self._leaves_ms(age, now_us)
        return self._leaves_ms(0, now_us)

    def _at(self, age: int) -> int:
        return self.counts[(self.newest - age) % COUNTED]

    def _leaves_ms(self, age: int, now_us: int) -> int:
        return -((now_us - (self.newest - age + COUNTED) * self.sub_us) // 1000)


class _Log:
    """When each unit of one window was counted, the oldest first."""

    __slots__ = ("times", "window_us")

    def __init__(self, window_ms: int) -> None:
        self.window_us = window_ms * 1000
        self.times: deque[int] = deque()

    @property
    def used(self) -> int:
        return len(self.times)

    def advance(self, now_us: int) -> None:
        while self.times and self.times[0] <= now_us - self.window_us:
            self.times.popleft()

    def fits(self, units: int, limit: int) -> bool:
        return len(self.times) + units <= limit

    def add(self, units: int, now_us: int) -> None:
        self.times.extend([max(now_us, self.times[-1]) if self.times else now_us] * units)

    def adjust(self, at_us: int, units: int) -> None:
        end = bisect_right(self.times, at_us)
        for _ in range(-units):
            end -= 1
            if end < 0 or self.times[end] != at_us:
                return
            del self.times[end]

    def reset_ms(self, now_us: int) -> int:
        return self._leaves_ms(len(self.times) - 1, now_us) if self.times else 0

    def retry_ms(self, units: int, limit: int, now_us: int) -> int:
        over = len(self.times) + units - limit
        if over > len(self.times):
            return self.window_us // 1000
        return self._leaves_ms(over - 1, now_us)

    def _leaves_ms(self, index: int, now_us: int) -> int:
        (counted_us,) = islice(self.times, index, index + 1)
        return -((now_us - counted_us) // 1000) + self.window_us // 1000


class _Slots:
    """Who holds a lease of one limit, and until when."""

    __slots__ = ("ends",)

    def __init__(self) -> None:
        self.ends: dict[str, int] = {}

    def advance(self, now_us: int) -> None:
        for lease in [lease for lease, end_us in self.ends.items() if end_us <= now_us]:
            del self.ends[lease]


_Kept = TypeVar("_Kept")


class _Recent(Generic[_Kept]):
    """At most ``size`` things by key. Those that were not asked for while half as many others were are forgotten."""

    __slots__ = ("_half", "_new", "_old")

    def __init__(self, size: int) -> None:
        self._half = max(1, size // 2)
        self._new: dict[str, _Kept] = {}
        self._old: dict[str, _Kept] = {}

    def get(self, key: str) -> _Kept | None:
        return self._new.get(key) or self._get_old(key)

    def _get_old(self, key: str) -> _Kept | None:
        found = self._old.pop(key, None)
        if found is not None:
            self.put(key, found)
        return found

    def put(self, key: str, value: _Kept) -> None:
        if len(self._new) >= self._half:
            self._old, self._new = self._new, {}
        self._new[key] = value


class MemoryLimitStore:
    """Bounded: beyond ``max_keys`` those that were not asked for lately are forgotten."""

    def __init__(self, now_us: Callable[[], int] = monotonic_us, max_keys: int = 100_000) -> None:
        self._now_us = now_us
        self._windows: _Recent[_Window] = _Recent(max_keys)
        self._logs: _Recent[_Log] = _Recent(max_keys)
        self._slots: _Recent[_Slots] = _Recent(max_keys)

    async def admit(
        self,
        checks: Sequence[Check],
        *,
        shadows: Sequence[Check] = (),
        lease: str = "",
        refund: Sequence[Adjustment] = (),
    ) -> Admission:
        return self.decide(checks, shadows=shadows, lease=lease, refund=refund)

    async def adjust(self, adjustments: Sequence[Adjustment]) -> None:
        self.correct(adjustments)

    async def renew(self, leases: Sequence[Lease], timeout_ms: int) -> None:
        end_us = self._now_us() + timeout_ms * 1000
        for lease in leases:
            self._slots_of(lease.key).ends[lease.id] = end_us

    def release(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            self._slots_of(lease.key).ends.pop(lease.id, None)

    def decide(
        self,
        checks: Sequence[Check],
        *,
        shadows: Sequence[Check] = (),
        lease: str = "",
        refund: Sequence[Adjustment] = (),
    ) -> Admission:
        """:meth:`admit` for a caller that cannot wait."""
        now_us = self._now_us()
        if len(checks) == 1 and not shadows and not refund:
            check = checks[0]
            if type(check) is LimitCheck and len(check.rates) == 1 and not check.rates[0].log:
                return self._decide_one(check.rates[0], check.weight, now_us)
        asked = [self._asked(check, lease, now_us) for check in checks]
        admitted = all(one.room for one in asked)
        if admitted:
            for one in asked:
                one.count(now_us)
        states = tuple(one.states(now_us) for one in asked)
        if not admitted:
            self.correct(refund)
        beside = []
        for check in shadows:
            shadow = self._asked(check, lease, now_us)
            if shadow.room and admitted:
                shadow.count(now_us)
            beside.append(Admission(shadow.room, (shadow.states(now_us),), now_us))
        return Admission(admitted, states, now_us, tuple(beside))

    def correct(self, adjustments: Sequence[Adjustment]) -> None:
        """:meth:`adjust` for a caller that cannot wait."""
        now_us = self._now_us()
        for rate, at_us, units in adjustments:
            self._counter(rate, now_us).adjust(at_us, units)

    def _decide_one(self, rate: WindowRate, weight: int, now_us: int) -> Admission:
        """The usual question, one window, without anything in between."""
        window = self._windows.get(rate.key) or self._new_window(rate)
        newest, sub_us = window.newest, window.sub_us
        if now_us // sub_us > newest:
            window.advance(now_us)
            newest = window.newest
        used = window.used + weight
        left = rate.limit - used
        if left < 0 or not weight:
            return self._decide_other(window, rate, weight, now_us)
        window.used = used
        window.filled = newest
        window.counts[newest % COUNTED] += weight
        reset_ms = ((newest + COUNTED) * sub_us - now_us + 999) // 1000
        # A named tuple's own constructor takes longer than the decision.
        return _new(Admission, (True, ((_new(RateState, (left, reset_ms, 0)),),), now_us, ()))

    def _decide_other(self, window: _Window, rate: WindowRate, weight: int, now_us: int) -> Admission:
        room = window.fits(weight, rate.limit)
        if room:
            window.add(weight, now_us)
        retry_ms = 0 if room else window.retry_ms(weight, rate.limit, now_us)
        left = max(0, rate.limit - window.used)
        return Admission(room, ((RateState(left, window.reset_ms(now_us), retry_ms),),), now_us)

    def _asked(self, check: Check, lease: str, now_us: int) -> _AskedWindows | _AskedSlot:
        if isinstance(check, LeaseCheck):
            slots = self._slots_of(check.key)
            slots.advance(now_us)
            return _AskedSlot(check, slots, lease)
        return _AskedWindows(check, [self._counter(rate, now_us) for rate in check.rates])

    def _counter(self, rate: WindowRate, now_us: int) -> _Window | _Log:
        counter: _Window | _Log
        if rate.log:
            counter = self._logs.get(rate.key) or self._new_log(rate)
        else:
            counter = self._windows.get(rate.key) or self._new_window(rate)
        counter.advance(now_us)
        return counter

    def _new_window(self, rate: WindowRate) -> _Window:
        window = _Window(rate.window_ms)
        self._windows.put(rate.key, window)
        return window

    def _new_log(self, rate: WindowRate) -> _Log:
        log = _Log(rate.window_ms)
        self._logs.put(rate.key, log)
        return log

    def _slots_of(self, key: str) -> _Slots:
        slots = self._slots.get(key)
        if slots is None:
            slots = _Slots()
            self._slots.put(key, slots)
        return slots


class _AskedWindows:
    """One limit of a request, its windows moved on to the present."""

    __slots__ = ("_check", "_counters", "_fits", "room")

    def __init__(self, check: LimitCheck, counters: list[_Window | _Log]) -> None:
        self._check = check
        self._counters = counters
        self._fits = [
            counter.fits(check.weight, rate.limit)
            for rate, counter in zip(check.rates, counters, strict=True)
        ]
        self.room = all(self._fits)

    def count(self, now_us: int) -> None:
        for counter in self._counters:
            counter.add(self._check.weight, now_us)

    def states(self, now_us: int) -> tuple[RateState, ...]:
        weight = self._check.weight
        return tuple(
            RateState(
                max(0, rate.limit - counter.used),
                counter.reset_ms(now_us),
                0 if fits else counter.retry_ms(weight, rate.limit, now_us),
            )
            for rate, counter, fits in zip(self._check.rates, self._counters, self._fits, strict=True)
        )


class _AskedSlot:
    """One limit of concurrency of a request, without the leases that have ended."""

    __slots__ = ("_check", "_lease", "_slots", "room")

    def __init__(self, check: LeaseCheck, slots: _Slots, lease: str) -> None:
        self._check = check
        self._slots = slots
        self._lease = lease
        self.room = len(slots.ends) < check.limit

    def count(self, now_us: int) -> None:
        self._slots.ends[self._lease] = now_us + self._check.timeout_ms * 1000

    def states(self, now_us: int) -> tuple[RateState, ...]:
        left = max(0, self._check.limit - len(self._slots.ends))
        return (RateState(left, 0, 0 if self.room else SLOT_RETRY_MS),)
