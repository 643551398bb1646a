"""Refusals that this process remembers, so that a caller who does not wait costs the store nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cachepolicy_runtime.store.port import Check, LimitCheck, RateState

#: Windows that are remembered at once.
MAX_REMEMBERED = 10_000


class _Denial(NamedTuple):
    until_us: int
    weight: int
    state: RateState
    since_us: int


class Denials:
    """Until when which window has no room for which weight. Lives as long as the limits of one policy.

    The store says how long nothing can have left a window, and only what leaves makes room: nobody who is
    refused meanwhile would have passed. So it is only for limits whose units are never given back.
    """

    def __init__(self) -> None:
        self._by_key: dict[str, _Denial] = {}

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def remember(self, checks: Sequence[Check], states: Sequence[Sequence[RateState]], asked_us: int) -> None:
        """``asked_us`` is when the store was asked, by this process's clock: it decided after that, so counting
        from then on ends too early by the way there, and never too late."""
        for check, found in zip(checks, states, strict=True):
            if not isinstance(check, LimitCheck):
                continue
            for rate, state in zip(check.rates, found, strict=True):
                until_us = asked_us + (state.retry_ms - 1) * 1000  # it is rounded up
                if until_us > asked_us:
                    self._keep(rate.key, _Denial(until_us, check.weight, state, asked_us))

    def of(self, checks: Sequence[Check], now_us: int) -> list[list[RateState | None]] | None:
        """What is remembered of these windows, counted down; None where all of them may have room."""
        found = [self._states(check, now_us) for check in checks]
        return found if any(state is not None for states in found for state in states) else None

    def _states(self, check: Check, now_us: int) -> list[RateState | None]:
        if not isinstance(check, LimitCheck):
            return [None]
        return [self._state(rate.key, check.weight, now_us) for rate in check.rates]

    def _state(self, key: str, weight: int, now_us: int) -> RateState | None:
        denial = self._by_key.get(key)
        if denial is None:
            return None
        if denial.until_us <= now_us:
            del self._by_key[key]
            return None
        if weight < denial.weight:  # less may fit
            return None
        gone_ms = (now_us - denial.since_us) // 1000
        state = denial.state
        return RateState(state.remaining, max(1, state.reset_ms - gone_ms), max(1, state.retry_ms - gone_ms))

    def _keep(self, key: str, denial: _Denial) -> None:
        if len(self._by_key) >= MAX_REMEMBERED and key not in self._by_key:
            self._by_key.clear()
        self._by_key[key] = denial
