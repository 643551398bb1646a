"""The limits of one policy: which of them apply to a request, and what is asked of the store for it.

Which limits match a method, path and model, and the keys of one caller, are worked out once and remembered, within
bounds: a request that comes again costs two look-ups.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy.limits import Algorithm, By, ByType, LimitMode, RateLimit, StoreFailure, Unit
from cachepolicy.weights import TokenWeights
from cachepolicy_runtime.ratelimit.asked import Asked
from cachepolicy_runtime.ratelimit.denials import Denials
from cachepolicy_runtime.ratelimit.held import LEASE_MS
from cachepolicy_runtime.ratelimit.subject import Subject, part_of_key
from cachepolicy_runtime.store.port import Check, LeaseCheck, LimitCheck, WindowRate
from cachepolicy_runtime.usage import Usage

#: Methods, paths and models, and callers of each set of limits, that are remembered at once.
MAX_PLACES = 4096
MAX_CALLERS = 8192


class RateRule(NamedTuple):
    """One window of a limit: the name that it is reported under, units, milliseconds (0: slots, no window)."""

    policy: str
    limit: int
    window_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """One limit of the policy, ready to be matched. Two limits are the same only if they are one object.

    Attributes:
        spend: it is decided when a provider is about to be asked.
    """

    name: str
    by: tuple[By, ...]
    unit: Unit
    rates: tuple[RateRule, ...]
    log: bool
    shadow: bool
    spend: bool
    weights: TokenWeights
    on_store_failure: StoreFailure
    paths: tuple[tuple[str, re.Pattern[str]], ...]
    methods: frozenset[str]
    models: re.Pattern[str] | None

    def matches(self, subject: Subject) -> bool:
        """Whether it applies, as far as method, path and model tell."""
        if self.methods and (subject.method not in self.methods or not subject.path):
            return False
        if self.models is not None and not (subject.model and self.models.fullmatch(subject.model)):
            return False
        return not self.paths or self.route(subject.path) is not None

    def route(self, path: str) -> str | None:
        """The first of its paths that this one matches."""
        if not path:
            return None
        return next((glob for glob, pattern in self.paths if pattern.fullmatch(path)), None)

    def check(self, subject: Subject, keys: KeyLayout, weight: int = 1) -> Check | None:
        """What to ask the store; None where the request lacks a part that the limit counts by.

        So a request without authentication is limited by address and header only.
        """
        route = self.route(subject.path) if self.paths else None
        parts = [part_of_key(part, subject, route) for part in self.by]
        by = [part for part in parts if part is not None]
        if len(by) < len(parts):
            return None
        if self.unit is Unit.CONCURRENCY:
            return LeaseCheck(keys.limit_leases(self.name, by), self.rates[0].limit, LEASE_MS)
        key = keys.limit_log if self.log else keys.limit
        return LimitCheck(
            tuple(
                WindowRate(key(self.name, window_ms, by), limit, window_ms, self.log)
                for _, limit, window_ms in self.rates
            ),
            weight,
        )

    def units(self, usage: Usage) -> int:
        """What a call costs under this limit, rounded up."""
        return self.weights.units(
            input_tokens=usage.input, cached_input_tokens=usage.cached_input, output_tokens=usage.output
        )

    def reserved(self, guess: Usage) -> int:
        """What to reserve for a call that is expected to cost ``guess``.

        The output is bounded by what the caller allows (``max_tokens``), which is no forecast: where the input
        alone fits and both together never can, the whole limit is reserved.
        """
        units, most = self.units(guess), min(rate.limit for rate in self.rates)
        if units > most and self.units(Usage(guess.input, guess.cached_input)) <= most:
            return most
        return units


class _Plan:
    """Limits that apply to some requests, and the callers that were seen there."""

    __slots__ = ("_by_header", "_by_ip", "_by_route", "by_identity", "callers", "limits")

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        kinds = {part.type for limit in limits for part in limit.by}
        self.limits = limits
        self.callers: dict[object, Asked] = {}
        self._by_ip = ByType.IP in kinds
        self._by_route = ByType.ROUTE in kinds
        self._by_header = tuple(
            {part.name.lower().encode("ascii") for limit in limits for part in limit.by if part.name}
        )
        self.by_identity = not (self._by_ip or self._by_route or self._by_header)

    def caller(self, subject: Subject, cost: int) -> object:
        """Everything that the keys of this request depend on, beside the limits."""
        identity = subject.identity
        who = None if identity is None else (identity.tenant, identity.user, identity.api_key_id)
        if self.by_identity:
            return who if cost == 1 else (who, cost)
        return (
            who,
            cost,
            subject.ip if self._by_ip else None,
            subject.path if self._by_route else None,
            *(subject.header(name) for name in self._by_header),
        )


class Limits:
    """All limits that are in force, in the order of the policy. Another policy comes with another one of these.

    Attributes:
        any: there are some.
        names: of all limits, also of those that are switched off.
        denials: refusals that are remembered; None where what was counted may be given back.
    """

    def __init__(self, limits: Iterable[Limit], names: Iterable[str] = ()) -> None:
        all_of_them = tuple(limits)
        self.admission = tuple(limit for limit in all_of_them if not limit.spend)
        self.spend = tuple(limit for limit in all_of_them if limit.spend)
        self.any = bool(all_of_them)
        self.names = frozenset(names) | {limit.name for limit in all_of_them}
        self.denials = None if self.spend else Denials()
        self._places: dict[tuple[str, str], _Plan] = {}
        self._plans: dict[tuple[Limit, ...], _Plan] = {}
        self._parts: dict[frozenset[str], Limits] = {}
        self._keys: KeyLayout | None = None

    def __iter__(self) -> Iterator[Limit]:
        return iter(self.admission + self.spend)

    @property
    def spends(self) -> bool:
        """Something is to be reserved before a provider is asked."""
        return bool(self.spend)

    def known(self, method: str, path: str, who: Identity | None) -> Asked | None:
        """What :meth:`asked` would say of this request, where that was asked before and depends on nothing more."""
        plan = self._places.get((method, path))
        if plan is None or not plan.by_identity or self.spend:
            return None
        return plan.callers.get(None if who is None else (who.tenant, who.user, who.api_key_id))

    def asked(self, subject: Subject, keys: KeyLayout, cost: int = 1) -> Asked | None:
        """What to ask the store before a request is let in; None where no limit applies.

        ``cost`` is how many requests it counts as.
        """
        if keys is not self._keys:
            self._forget(keys)
        plan = self._places.get((subject.method, subject.path))
        if plan is None:
            plan = self._plan(subject)
        if not plan.limits:
            return None
        caller = plan.caller(subject, cost)
        found = plan.callers.get(caller)
        if found is None:
            found = _asked(plan.limits, subject, keys, cost)
            if len(plan.callers) >= MAX_CALLERS:
                plan.callers.clear()
            plan.callers[caller] = found
        return found if found.any else None

    def asked_to_spend(self, subject: Subject, keys: KeyLayout, guess: Usage) -> Asked | None:
        """What to ask the store before a provider is asked; None where no limit applies."""
        found = Asked(
            (limit, check)
            for limit in self.spend
            if limit.matches(subject)
            and (check := limit.check(subject, keys, _weight(limit, guess))) is not None
        )
        return found if found.any else None

    def named(self, name: str) -> Limits:
        """The one limit of this name, to be asked by itself; empty where it is switched off.

        Raises ``KeyError`` where the policy has none of this name, or has one that counts tokens or models.
        """
        if name not in self.names or any(limit.name == name for limit in self.spend):
            raise KeyError(name)
        return self._part(self.names - {name})

    def without(self, names: frozenset[str]) -> Limits:
        """All but these."""
        return self._part(names) if names else self

    def _part(self, left_out: frozenset[str]) -> Limits:
        part = self._parts.get(left_out)
        if part is None:
            part = Limits((limit for limit in self if limit.name not in left_out), self.names)
            if self.spend:  # refunds reach it although its own limits give nothing back
                part.denials = None
            self._parts[left_out] = part
        return part

    def _plan(self, subject: Subject) -> _Plan:
        matching = tuple(limit for limit in self.admission if limit.matches(subject))
        plan = self._plans.get(matching)
        if plan is None:
            plan = self._plans[matching] = _Plan(matching)
        if len(self._places) >= MAX_PLACES:
            self._places.clear()
        self._places[subject.method, subject.path] = plan
        return plan

    def _forget(self, keys: KeyLayout) -> None:
        self._places.clear()
        self._plans.clear()
        self._keys = keys


def compile_limits(limits: Mapping[str, RateLimit]) -> Limits:
    """The limits of a policy document, in its order. To be made once for each revision."""
    on = (_compile(name, limit) for name, limit in limits.items() if limit.mode is not LimitMode.OFF)
    return Limits(on, limits)


def _asked(limits: Sequence[Limit], subject: Subject, keys: KeyLayout, cost: int) -> Asked:
    return Asked(
        (limit, check) for limit in limits if (check := limit.check(subject, keys, cost)) is not None
    )


def _weight(limit: Limit, guess: Usage) -> int:
    return limit.reserved(guess) if limit.unit is Unit.TOKENS else 1


def _compile(name: str, limit: RateLimit) -> Limit:
    match = limit.match
    several = len(limit.rates) > 1
    rates = tuple(
        RateRule(f"{name}/{rate.window}" if several else name, rate.limit, rate.window.milliseconds)
        for rate in limit.rates
    )
    return Limit(
        name=name,
        by=limit.by,
        unit=limit.unit,
        rates=rates if limit.limit is None else (RateRule(name, limit.limit, 0),),
        log=limit.algorithm is Algorithm.LOG,
        shadow=limit.mode is LimitMode.SHADOW,
        spend=limit.in_spend_phase,
        weights=limit.weights or TokenWeights(),
        on_store_failure=limit.on_store_failure,
        paths=tuple((glob, re.compile(_glob(glob), re.DOTALL)) for glob in (match.paths if match else ())),
        methods=frozenset(match.methods) if match else frozenset(),
        models=_any_of(match.models) if match and match.models else None,
    )


_GLOB_PARTS = re.compile(r"/\*\*(?=/|$)|\*\*|\*|[^*/]+|/")


def _glob(pattern: str) -> str:
    """``*`` stays within one segment; ``/**`` is any number of segments, none included."""
    wildcards = {"/**": "(?:/.*)?", "**": ".*", "*": "[^/]*"}
    return "".join(wildcards.get(part) or re.escape(part) for part in _GLOB_PARTS.findall(pattern))


def _any_of(models: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(".*".join(map(re.escape, model.split("*"))) for model in models), re.DOTALL)
