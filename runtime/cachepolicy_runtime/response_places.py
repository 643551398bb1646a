"""Where the answer to a request lives: its key, the stamp that it is bound to, or why it has no place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

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

StampOf = Callable[[Scope], "str | None"]


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

    @property
    def ttl_ms(self) -> int:
        ttl = self.rules.ttl_for(self.provider, self.model)
        return jittered(ttl.milliseconds, self.rules.jitter_percent, self.digest)

    @property
    def lease(self) -> str:
        """Key of the right to ask the provider for this entry; another one after a purge."""
        return f"{self.name}:{self.stamp}"


class Places:
    """Finds places; remembers the combined stamps while they hold."""

    def __init__(self) -> None:
        self._stamp_of: StampOf | None = None
        self._stamps: dict[tuple[str | None, str, str | None, tuple[str, ...]], str | None] = {}

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
        if rules is None or rules.mode is CacheMode.OFF:
            return "no-policy" if rules is None else "off"
        scope = scope_of(rules, identity)
        if scope is None or identity is None:
            return "no-identity" if identity is None else "no-user"
        model = request.model
        tenant = None if rules.scope is CacheScope.GLOBAL else identity.tenant
        why, stamp = _unfit(request, rules), self.stamp(view, tenant, provider, model)
        if why is not None or stamp is None:
            return why or "purge-state-unknown"
        try:
            digest = key or response_digest(view.secret, scope, provider, request)
        except NotCanonicalError:
            return "not-canonical"
        name = view.layout.response(scope, provider, digest)
        return Place(name, digest, stamp, rules, provider, model, tenant)

    def stamp(
        self,
        view: CacheView,
        tenant: str | None,
        provider: str,
        model: str | None,
        tags: tuple[str, ...] = (),
    ) -> str | None:
        """The combined stamp of an entry; None while a purge could have been missed."""
        if view.stamp_of is not self._stamp_of or len(self._stamps) > _MAX_KNOWN:
            self._stamp_of, self._stamps = view.stamp_of, {}
        known = (tenant, provider, model, tags)
        try:
            return self._stamps[known]
        except KeyError:
            found = self._stamps[known] = view.stamp_of(Scope(KIND, tenant, provider, model, tags))
            return found


def scope_of(rules: ResponseCache, identity: Identity | None) -> str | None:
    """The hash tag of what this caller may share; None where authentication does not tell."""
    if identity is None:
        return None
    if rules.scope is CacheScope.TENANT:
        return _tenant_scope(identity.tenant)
    if rules.scope is CacheScope.GLOBAL:
        return GLOBAL_SCOPE
    return user_scope(identity.tenant, identity.user) if identity.user is not None else None


_tenant_scope = lru_cache(maxsize=_MAX_KNOWN)(tenant_scope)


def _unfit(request: UpstreamRequest, rules: ResponseCache) -> str | None:
    body = request.body
    if body.get("stream"):
        return "stream"
    if body.get("conversation") or body.get("background"):
        return "stateful"  # the provider does more than answer, and a hit would leave that out
    highest = rules.cacheable.max_temperature
    if highest is not None and _above(body.get("temperature"), float(highest.value)):
        return "temperature"
    return None


def _above(temperature: object, highest: float) -> bool:
    """A request that names none is not above; one that names something else than a number is."""
    if temperature is None:
        return False
    return not isinstance(temperature, (int, float)) or not temperature <= highest
