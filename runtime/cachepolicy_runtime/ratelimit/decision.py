"""The answer to a request for room. Values only."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from cachepolicy.limits import Unit

if TYPE_CHECKING:
    from cachepolicy_runtime.ratelimit.held import HeldLease
    from cachepolicy_runtime.ratelimit.spending import Charge


class Outcome(Enum):
    ADMITTED = "admitted"
    LIMITED = "limited"
    """Some limit has no room: 429."""
    UNAVAILABLE = "unavailable"
    """The store is away and a limit says Deny: 503."""


class RateReport(NamedTuple):
    """One window (or the slots) of one limit after the decision.

    Attributes:
        policy: the limit's name; with its window behind it (``per-user/1m``) where the limit has several.
        limit: units per window, as enforced here and now.
        window_ms: 0 for slots, which have no window.
        remaining, reset_ms, retry_ms: as in :class:`~cachepolicy_runtime.store.port.RateState`.
        unit: what is counted.
    """

    policy: str
    limit: int
    window_ms: int
    remaining: int
    reset_ms: int
    retry_ms: int
    unit: Unit = Unit.REQUESTS


class Decision:
    """The answer for one request. Never changed once it is made.

    Attributes:
        outcome: what to do with it.
        rates: every window that was asked, in the order of the policy; empty where no limit applies. A refusal that
            was remembered in the process has the windows that refuse, and no others.
        degraded: decided without the store.
        shadowed: names of limits in mode Shadow that would have refused it.
        lease: what it holds while it is under way, to be released at its end; None where it holds nothing.
        charge: what it was counted in, where that may be given back.
        quota: where the header is kept that is the same in all decisions over the same limits; None where it is not.
    """

    __slots__ = ("charge", "degraded", "lease", "outcome", "quota", "rates", "shadowed")

    def __init__(
        self,
        outcome: Outcome,
        rates: tuple[RateReport, ...] = (),
        degraded: bool = False,
        *,
        shadowed: tuple[str, ...] = (),
        lease: HeldLease | None = None,
        charge: Charge | None = None,
        quota: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.outcome = outcome
        self.rates = rates
        self.degraded = degraded
        self.shadowed = shadowed
        self.lease = lease
        self.charge = charge
        self.quota = quota

    def __repr__(self) -> str:
        return f"Decision({self.outcome}, {self.rates}, degraded={self.degraded}, shadowed={self.shadowed})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Decision) and self._told == other._told

    def __hash__(self) -> int:
        return hash(self._told)

    @property
    def _told(self) -> tuple[object, ...]:
        return self.outcome, self.rates, self.degraded, self.shadowed

    @property
    def allowed(self) -> bool:
        return self.outcome is Outcome.ADMITTED

    @property
    def refused_by(self) -> tuple[RateReport, ...]:
        """The windows without room."""
        return tuple(rate for rate in self.rates if rate.retry_ms > 0)

    @property
    def retry_after_ms(self) -> int:
        """When all windows that refuse will have room; 0 when none does."""
        return max((rate.retry_ms for rate in self.rates), default=0)


#: No limit applies.
UNLIMITED = Decision(Outcome.ADMITTED)
