"""What is asked of a store for one request, and how its answer is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cachepolicy.limits import StoreFailure, Unit
from cachepolicy_runtime.ratelimit.decision import RateReport
from cachepolicy_runtime.store.port import Admission, Check, LeaseCheck, LimitCheck, RateState

if TYPE_CHECKING:
    from cachepolicy_runtime.ratelimit.rules import Limit

_Pair = tuple["Limit", Check]
_new = tuple.__new__


class Asked:
    """The limits that apply to one request, each with what the store is asked for it.

    Attributes:
        enforced, shadow: limits with their checks.
        checks, shadows: the checks alone.
        any: some limit applies.
        leases: keys of the leases among them.
        denies: a limit answers 503 while the store is away.
        tokens: a limit counts tokens.
        plain: there are windows of limits that are enforced, and nothing else.
        quota: keeps the header that names the enforced limits, once it was made.
    """

    __slots__ = (
        "_local",
        "_one",
        "any",
        "checks",
        "denies",
        "enforced",
        "leases",
        "plain",
        "quota",
        "shadow",
        "shadows",
        "tokens",
    )

    def __init__(self, pairs: Iterable[_Pair]) -> None:
        found = tuple(pairs)
        self.enforced: tuple[_Pair, ...] = tuple(pair for pair in found if not pair[0].shadow)
        self.shadow: tuple[_Pair, ...] = tuple(pair for pair in found if pair[0].shadow)
        self.checks: tuple[Check, ...] = tuple(check for _, check in self.enforced)
        self.shadows: tuple[Check, ...] = tuple(check for _, check in self.shadow)
        self.any = bool(found)
        self.leases = tuple(check.key for _, check in found if isinstance(check, LeaseCheck))
        self.denies = any(limit.on_store_failure is StoreFailure.DENY for limit, _ in self.enforced)
        self.tokens = any(limit.unit is Unit.TOKENS for limit, _ in found)
        self.plain = not self.leases and not self.shadow
        self.quota: list[tuple[bytes, bytes]] = []
        self._local: tuple[int, Asked] | None = None
        self._one = self._one_window()

    def local(self, share: int) -> Asked:
        """What this process may admit by itself: a ``share``-th of every limit that says Local.

        At least 1, and rounded down: all parts together stay within the limit.
        """
        if self._local is None or self._local[0] != share:
            pairs = (
                (limit, _divided(check, share))
                for limit, check in self.enforced + self.shadow
                if limit.on_store_failure is StoreFailure.LOCAL
            )
            self._local = share, Asked(pairs)
        return self._local[1]

    def leases_of(self, admission: Admission) -> list[str]:
        """Keys of the leases that this admission got."""
        if not admission.admitted:
            return []
        keys = [check.key for check in self.checks if isinstance(check, LeaseCheck)]
        return keys + [
            check.key
            for check, answer in zip(self.shadows, admission.shadows, strict=True)
            if isinstance(check, LeaseCheck) and answer.admitted
        ]

    def reports(self, states: Sequence[Sequence[RateState | None]]) -> tuple[RateReport, ...]:
        """What is told of these states, in the order of the policy."""
        if self._one is not None and (state := states[0][0]) is not None:
            return (_new(RateReport, (*self._one[:3], *state, self._one[3])),)
        return tuple(
            RateReport(policy, _limit_of(check, at), window_ms, *state, limit.unit)
            for (limit, check), found in zip(self.enforced, states, strict=True)
            for at, ((policy, _, window_ms), state) in enumerate(zip(limit.rates, found, strict=True))
            if state is not None
        )

    def _one_window(self) -> tuple[str, int, int, Unit] | None:
        """What is the same in all reports, where there is one window and nothing else."""
        if len(self.enforced) != 1 or len(self.enforced[0][0].rates) != 1:
            return None
        limit, check = self.enforced[0]
        return limit.rates[0].policy, _limit_of(check, 0), limit.rates[0].window_ms, limit.unit

    def shadowed(self, admission: Admission) -> tuple[str, ...]:
        """The shadow limits that would have refused this request."""
        return tuple(
            limit.name
            for (limit, _), answer in zip(self.shadow, admission.shadows, strict=True)
            if not answer.admitted
        )


def _limit_of(check: Check, at: int) -> int:
    return check.rates[at].limit if isinstance(check, LimitCheck) else check.limit


def _divided(check: Check, share: int) -> Check:
    if isinstance(check, LeaseCheck):
        return LeaseCheck(check.key, max(1, check.limit // share), check.timeout_ms)
    rates = tuple(replace(rate, limit=max(1, rate.limit // share)) for rate in check.rates)
    return LimitCheck(rates, check.weight)
