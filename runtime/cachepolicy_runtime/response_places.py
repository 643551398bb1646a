"""Where the answer to a request lives: its key, the stamp that it is bound to, or why it has no place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cachepolicy.caches import CacheMode
from cachepolicy.identity import Identity
from cachepolicy.keys import GLOBAL_SCOPE, tenant_scope, user_scope
from cachepolicy.response_cache import Cacheable, CacheScope, ResponseCache
from cachepolicy.stamps import Scope
from cachepolicy_runtime.answers import Answer, refusal
from cachepolicy_runtime.caching import CacheView
from cachepolicy_runtime.freshness import jittered
from cachepolicy_runtime.keys import NotCanonicalError, UpstreamRequest, response_digest
from cachepolicy_runtime.usage import Usage, usage_of_json

KIND = "responses"
_MAX_KNOWN = 4096


class Judge(NamedTuple):
    """How an answer is read: why it must not be stored, and what it cost."""

    refusal: Callable[[Answer, Cacheable], str | None]
    usage: Callable[[bytes], Usage | None]


_GENERATED = Judge(refusal, usage_of_json)


@dataclass(slots=True)
class Place:
    """Where the answer to one request lives, and under which rules.

    Attributes:
        name: full key of the entry. It holds the scope, which authentication chose.
        stamp: combined stamp without tags, from before the provider was asked: a purge in between makes the
            entry a miss.
        tenant: None where all tenants share the entry.
        local: the first level may answer.
        judge: reads the answers that are to be stored there.
    """

    name: str
    digest: str
    stamp: str
    rules: ResponseCache
    provider: str
    model: str | None
    tenant: str | None
    judge: Judge = _GENERATED
    local: bool = False

    @property
    def ttl_ms(self) -> int:
        ttl = self.rules.ttl_for(self.provider, self.model)
        return jittered(ttl.milliseconds, self.rules.jitter_percent, self.digest)

    @property
    def lease(self) -> str:
        """Key of the right to ask the provider for this entry; another one after a purge."""
        return f"{self.name}:{self.stamp}"


#: Tenant, user, provider, model.
_Caller = tuple[str, "str | None", str, "str | None"]


class _Home(NamedTuple):
    """What the places of one caller's entries of one model have in common; ``highest`` is of temperatures."""

    scope: str
    names: str
    stamp: str | None
    tenant: str | None
    local: bool
    highest: float | None


class Places:
    """Finds places. What it has worked out holds as long as the view of the policy does."""

    def __init__(self) -> None:
        self._view: CacheView | None = None
        self._homes: dict[_Caller, _Home | str] = {}
        self._tagged: dict[tuple[str | None, str, str | None, tuple[str, ...]], str | None] = {}

    def of(
        self,
        view: CacheView,
        request: UpstreamRequest,
        provider: str,
        identity: Identity | None,
        key: str | None,
    ) -> Place | str:
        """The place, or one word for why this request does not touch the cache."""
        rules = view.responses
        if rules is None or identity is None:
            return "no-policy" if rules is None else "no-identity"
        if view is not self._view:
            self._forget(view)
        model = request.model
        known = (identity.tenant, identity.user, provider, model)
        home = self._homes.get(known) or self._add(known, _home_of(view, rules, identity, provider, model))
        if isinstance(home, str):
            return home
        if (why := _unfit(request.body, home.highest)) is not None:
            return why
        if home.stamp is None:
            return "purge-state-unknown"
        try:
            digest = key or response_digest(view.secret, home.scope, provider, request)
        except NotCanonicalError:
            return "not-canonical"
        name = home.names + digest
        return Place(name, digest, home.stamp, rules, provider, model, home.tenant, local=home.local)

    def stamp(
        self,
        view: CacheView,
        tenant: str | None,
        provider: str,
        model: str | None,
        tags: tuple[str, ...],
    ) -> str | None:
        """The combined stamp of an entry with tags; None while a purge could have been missed."""
        if view is not self._view or len(self._tagged) > _MAX_KNOWN:
            self._forget(view)
        known = (tenant, provider, model, tags)
        if known not in self._tagged:
            self._tagged[known] = view.stamp_of(Scope(KIND, tenant, provider, model, tags))
        return self._tagged[known]

    def _add(self, known: _Caller, home: _Home | str) -> _Home | str:
        """Bounded, for callers choose names of models."""
        if len(self._homes) >= _MAX_KNOWN:
            self._homes.clear()
        self._homes[known] = home
        return home

    def _forget(self, view: CacheView) -> None:
        self._view, self._homes, self._tagged = view, {}, {}


def _home_of(
    view: CacheView, rules: ResponseCache, identity: Identity, provider: str, model: str | None
) -> _Home | str:
    if rules.mode is CacheMode.OFF:
        return "off"
    scope = scope_of(rules, identity)
    if scope is None:
        return "no-user"
    tenant = None if rules.scope is CacheScope.GLOBAL else identity.tenant
    stamp = view.stamp_of(Scope(KIND, tenant, provider, model))
    local = rules.local is not None and rules.mode is CacheMode.ENFORCE
    highest = rules.cacheable.max_temperature
    names = view.layout.response(scope, provider, "")
    return _Home(scope, names, stamp, tenant, local, None if highest is None else float(highest.value))


def scope_of(rules: ResponseCache, identity: Identity | None) -> str | None:
    """The hash tag of what this caller may share; None where authentication does not tell."""
    if identity is None:
        return None
    if rules.scope is CacheScope.TENANT:
        return tenant_scope(identity.tenant)
    if rules.scope is CacheScope.GLOBAL:
        return GLOBAL_SCOPE
    return user_scope(identity.tenant, identity.user) if identity.user is not None else None


def _unfit(body: Mapping[str, Any], highest: float | None) -> str | None:
    if body.get("stream"):
        return "stream"
    if body.get("conversation") or body.get("background"):
        return "stateful"  # the provider does more than answer, and a hit would leave that out
    if highest is not None and _above(body.get("temperature"), highest):
        return "temperature"
    return None


def _above(temperature: object, highest: float) -> bool:
    """A request that names none is not above; one that names something else than a number is."""
    if temperature is None:
        return False
    return not isinstance(temperature, (int, float)) or not temperature <= highest
