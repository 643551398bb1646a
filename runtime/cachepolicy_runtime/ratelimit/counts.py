"""What the limits of this process did since it started."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cachepolicy_runtime.ratelimit.decision import Decision, Outcome


@dataclass(slots=True)
class SpendCounts:
    """Reservations of the spend phase, and what became of them."""

    reserved: int = 0
    refused: int = 0
    settled: int = 0
    refunded: int = 0

    def as_dict(self) -> dict[str, int]:
        return {
            "reserved": self.reserved,
            "refused": self.refused,
            "settled": self.settled,
            "refunded": self.refunded,
        }


@dataclass(slots=True)
class LimitCounts:
    """Decisions; names are those of limits in the policy."""

    admitted: int = 0
    limited: int = 0
    unavailable: int = 0
    without_store: int = 0
    remembered: int = 0
    refused_by: Counter[str] = field(default_factory=Counter)
    shadow_refused_by: Counter[str] = field(default_factory=Counter)
    spend: SpendCounts = field(default_factory=SpendCounts)

    def count(self, decision: Decision) -> None:
        """A decision of admission."""
        if decision.outcome is Outcome.ADMITTED:
            self.admitted += 1
            if not decision.degraded and not decision.shadowed:
                return
        elif decision.outcome is Outcome.LIMITED:
            self.limited += 1
        else:
            self.unavailable += 1
        self._details(decision)

    def count_spend(self, decision: Decision) -> None:
        """A decision of the spend phase."""
        if decision.allowed:
            self.spend.reserved += 1
        else:
            self.spend.refused += 1
        self._details(decision)

    def _details(self, decision: Decision) -> None:
        if decision.degraded:
            self.without_store += 1
        if decision.outcome is not Outcome.ADMITTED:
            self.refused_by.update(rate.policy for rate in decision.refused_by)
        if decision.shadowed:
            self.shadow_refused_by.update(decision.shadowed)

    def as_dict(self, live: int) -> dict[str, Any]:
        """``live``: processes that share the limits."""
        return {
            "admitted": self.admitted,
            "limited": self.limited,
            "unavailable": self.unavailable,
            "withoutStore": self.without_store,
            "remembered": self.remembered,
            "refusedBy": dict(self.refused_by),
            "shadowRefusedBy": dict(self.shadow_refused_by),
            "spend": self.spend.as_dict(),
            "liveProcesses": live,
        }
