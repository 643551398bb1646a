"""Whether a request may pass: which limits apply to it, and what their windows say.

Pure but for :class:`RateLimiter`, which asks the store. All limits of a request are decided in one step: it is
counted in all of them, or in none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout, by_value
from cachepolicy.limits import ByType, RateLimit, StoreFailure
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.store.port import Admission, LimitCheck, LimitStore, StoreUnavailable, WindowRate

#: What a caller without an address (a unix socket in front) is counted as.
NO_ADDRESS = "unknown"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a limit may look at. ``identity`` comes from authentication only; None is nobody known."""

    method: str
    path: str
    ip: str | None = None
    identity: Identity | None = None


class Outcome(Enum):
    ADMITTED = "admitted"
    LIMITED = "limited"
    """Some window has no room: 429."""
    UNAVAILABLE = "unavailable"
    """The store is away and a limit says Deny: 503."""


@dataclass(frozen=True, slots=True)
class RateReport:
    """One window of one limit after the decision.

    Attributes:
        policy: the limit's name; with its window behind it (``per-user/1m``) where the limit has several.
        limit: units per window, as enforced here and now.
        window_ms, remaining, reset_ms, retry_ms: as in :class:`~cachepolicy_runtime.store.port.RateState`.
    """

    policy: str
    limit: int
    window_ms: int
    remaining: int
    reset_ms: int
    retry_ms: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer for one request.

    Attributes:
        outcome: what to do with it.
        rates: every window that was asked, in the order of the policy; empty where no limit applies.
        degraded: decided without the store.
    """

    outcome: Outcome
    rates: tuple[RateReport, ...] = ()
    degraded: bool = False

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


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of the policy, ready to be matched."""

    name: str
    by: tuple[ByType, ...]
    rates: tuple[tuple[str, int, int], ...]
    """Per window: the name it is reported under, units, milliseconds."""
    on_store_failure: StoreFailure
    paths: re.Pattern[str] | None
    methods: frozenset[str]

    def matches(self, subject: Subject) -> bool:
        if self.methods and subject.method not in self.methods:
            return False
        return self.paths is None or self.paths.fullmatch(subject.path) is not None

    def check(self, subject: Subject, keys: KeyLayout) -> LimitCheck | None:
        """What to ask the store; None where the request lacks a part that the limit counts by.

        So a request without authentication is limited by IP only.
        """
        values = [_value(kind, subject) for kind in self.by]
        parts = [
            by_value(kind, value) for kind, value in zip(self.by, values, strict=True) if value is not None
        ]
        if len(parts) < len(values):
            return None
        return LimitCheck(
            tuple(
                WindowRate(keys.limit(self.name, window_ms, parts), limit, window_ms)
                for _, limit, window_ms in self.rates
            )
        )


def compile_limits(limits: Mapping[str, RateLimit]) -> tuple[Limit, ...]:
    """The limits of a policy document, in its order. To be made once for each revision."""
    return tuple(_compile(name, limit) for name, limit in limits.items())


class RateLimiter:
    """Asks the store, and does what each limit says when there is no answer.

    Args:
        store: counts over all replicas.
        fallback: counts in this process while the store is away.
        live: how many processes share the limits (last known; at least 1).
    """

    def __init__(self, store: LimitStore, fallback: MemoryLimitStore, live: Callable[[], int]) -> None:
        self._store = store
        self._fallback = fallback
        self._live = live

    async def admit(self, limits: Sequence[Limit], keys: KeyLayout, subject: Subject) -> Decision:
        """Decide one request; never raises StoreUnavailable."""
        asked = [
            (limit, check)
            for limit in limits
            if limit.matches(subject) and (check := limit.check(subject, keys)) is not None
        ]
        if not asked:
            return Decision(Outcome.ADMITTED)
        try:
            admission = await self._store.admit([check for _, check in asked])
        except StoreUnavailable:
            return self._without_store(asked)
        return _decision(asked, admission)

    def _without_store(self, asked: Sequence[tuple[Limit, LimitCheck]]) -> Decision:
        if any(limit.on_store_failure is StoreFailure.DENY for limit, _ in asked):
            return Decision(Outcome.UNAVAILABLE, degraded=True)
        share = max(1, self._live())
        local = [
            (limit, _divided(check, share))
            for limit, check in asked
            if limit.on_store_failure is StoreFailure.LOCAL
        ]
        admission = self._fallback.decide([check for _, check in local])
        return replace(_decision(local, admission), degraded=True)


def _decision(asked: Sequence[tuple[Limit, LimitCheck]], admission: Admission) -> Decision:
    rates = tuple(
        RateReport(name, rate.limit, rate.window_ms, state.remaining, state.reset_ms, state.retry_ms)
        for (limit, check), states in zip(asked, admission.states, strict=True)
        for (name, _, _), rate, state in zip(limit.rates, check.rates, states, strict=True)
    )
    return Decision(Outcome.ADMITTED if admission.admitted else Outcome.LIMITED, rates)


def _divided(check: LimitCheck, share: int) -> LimitCheck:
    """This process's part of a limit, at least 1. Rounded down: all parts together stay within the limit."""
    return replace(
        check, rates=tuple(replace(rate, limit=max(1, rate.limit // share)) for rate in check.rates)
    )


def _compile(name: str, limit: RateLimit) -> Limit:
    match = limit.match
    several = len(limit.rates) > 1
    return Limit(
        name=name,
        by=tuple(part.type for part in limit.by),
        rates=tuple(
            (f"{name}/{rate.window}" if several else name, rate.limit, rate.window.milliseconds)
            for rate in limit.rates
        ),
        on_store_failure=limit.on_store_failure,
        paths=re.compile("|".join(map(_glob, match.paths)), re.DOTALL) if match and match.paths else None,
        methods=frozenset(match.methods) if match else frozenset(),
    )


_GLOB_PARTS = re.compile(r"/\*\*(?=/|$)|\*\*|\*|[^*/]+|/")


def _glob(pattern: str) -> str:
    """``*`` stays within one segment; ``/**`` is any number of segments, none included."""
    wildcards = {"/**": "(?:/.*)?", "**": ".*", "*": "[^/]*"}
    return "".join(wildcards.get(part) or re.escape(part) for part in _GLOB_PARTS.findall(pattern))


def _value(kind: ByType, subject: Subject) -> str | None:
    if kind is ByType.IP:
        return _address(subject.ip)
    if subject.identity is None:
        return None
    match kind:
        case ByType.TENANT:
            return subject.identity.tenant
        case ByType.USER:
            return subject.identity.user
        case ByType.API_KEY:
            return subject.identity.api_key_id


def _address(ip: str | None) -> str:
    """An IPv6 caller has a whole /64 to choose from (RFC 4291, 2.5.1), so the network is counted."""
    try:
        address = ipaddress.ip_address(ip or "")
    except ValueError:
        return NO_ADDRESS
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))
