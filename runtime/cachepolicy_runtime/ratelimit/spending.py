"""What was counted for a call, and how it is corrected when its cost is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cachepolicy.limits import Unit
from cachepolicy_runtime.ratelimit.decision import Decision
from cachepolicy_runtime.store.port import Adjustment, Admission, LimitCheck, LimitStore
from cachepolicy_runtime.usage import Usage

if TYPE_CHECKING:
    from cachepolicy_runtime.ratelimit.asked import Asked
    from cachepolicy_runtime.ratelimit.rules import Limit


class Charge:
    """What ``store`` counted when it admitted something, leases aside."""

    __slots__ = ("_admission", "_asked", "store")

    def __init__(self, store: LimitStore, asked: Asked, admission: Admission) -> None:
        self.store = store
        self._asked = asked
        self._admission = admission

    def refund(self) -> list[Adjustment]:
        """All of it back."""
        return [
            Adjustment(rate, self._admission.at_us, -check.weight)
            for _, check in self._counted()
            for rate in check.rates
        ]

    def correction(self, usage: Usage) -> list[Adjustment]:
        """From the tokens that were reserved to those that were used, up or down."""
        at_us = self._admission.at_us
        changes = [
            (check, limit.units(usage) - check.weight)
            for limit, check in self._counted()
            if limit.unit is Unit.TOKENS
        ]
        return [
            Adjustment(rate, at_us, change) for check, change in changes if change for rate in check.rates
        ]

    def _counted(self) -> Iterator[tuple[Limit, LimitCheck]]:
        for limit, check in self._asked.enforced:
            if isinstance(check, LimitCheck):
                yield limit, check
        for (limit, check), answer in zip(self._asked.shadow, self._admission.shadows, strict=True):
            if isinstance(check, LimitCheck) and answer.admitted:
                yield limit, check


class Reservation:
    """Room for one call to a provider. It is settled or refunded once; whatever comes after that does nothing.

    Attributes:
        decision: every window that was asked.
        tokens: a limit counts tokens, so the call's usage is wanted.
    """

    __slots__ = ("_charge", "decision", "tokens")

    def __init__(self, decision: Decision, charge: Charge | None = None, *, tokens: bool = False) -> None:
        self.decision = decision
        self.tokens = tokens
        self._charge = charge

    def end(self) -> Charge | None:
        """End its leases; returns what is to be corrected, the first time."""
        charge, self._charge = self._charge, None
        if self.decision.lease is not None:
            self.decision.lease.release()
        return charge
