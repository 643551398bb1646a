"""Policies that tests share: a complete spec, and every value that must be refused with what is said about it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from cachepolicy import directives, names

Spec = dict[str, Any]

LIMIT: Spec = {"by": [{"type": "Tenant"}], "rates": [{"limit": 60, "window": "1m"}]}

FULL: Spec = {
    "redis": {
        "managed": {
            "image": "docker.io/library/redis:8.2",
            "imagePullPolicy": "IfNotPresent",
            "state": {
                "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "128Mi"}},
                "storage": {"size": "1Gi", "className": "standard"},
                "config": {"maxclients": "2000"},
            },
            "cache": {"resources": {"limits": {"memory": "256Mi"}}},
        }
    },
    "core": {"podSelector": {"matchLabels": {"app": "core"}}},
    "sessions": {"idleTimeout": "30m", "cookie": {"name": "__Host-session"}},
    "rateLimits": {"per-tenant": LIMIT},
    "responseCache": {
        "ttl": "10m",
        "providers": {"openai": {"ttl": "1h", "models": {"gpt-x": {"ttl": "5m"}}}},
    },
    "embeddingCache": {},
    "purge": {
        "all": "1",
        "kinds": {"responses": "1"},
        "tenants": {"acme": "1"},
        "models": {"m": "1"},
        "tags": {"faq": "1"},
    },
}


def with_value(path: str, value: Any, base: Spec = FULL) -> Spec:
    """``base`` with one value changed; ``path`` is dotted and makes what is missing."""
    data = copy.deepcopy(base)
    target = data
    *parents, last = path.split(".")
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    target[last] = value
    return data


def without(path: str, base: Spec = FULL) -> Spec:
    """``base`` without the field at ``path``."""
    data = copy.deepcopy(base)
    target = data
    *parents, last = path.split(".")
    for part in parents:
        target = target[part]
    del target[last]
    return data


@dataclass(frozen=True)
class Refused:
    """One bad value: ``sentence`` is part of what Python says, ``at_api`` of what the API server says.

    ``at_api`` is None where both say the same, which is so for every rule that is written down in both.
    """

    path: str
    value: Any
    sentence: str
    at_api: str | None = None

    @property
    def api_sentence(self) -> str:
        return self.sentence if self.at_api is None else self.at_api

    def __str__(self) -> str:
        return f"{self.path}={self.value}"[:60]


_STATE = "redis.managed.state"
_RATES = "rateLimits.per-tenant.rates"

REFUSED = (
    # Unknown fields: kubectl and server-side apply are strict.
    Refused("rateLimit", {}, "spec.rateLimit: unknown field", 'unknown field "spec.rateLimit"'),
    Refused(
        f"{_STATE}.memory",
        "1Gi",
        "spec.redis.managed.state.memory: unknown field",
        'unknown field "spec.redis.managed.state.memory"',
    ),
    Refused(
        "redis.external", {}, "spec.redis.external: unknown field", 'unknown field "spec.redis.external"'
    ),
    # Durations.
    Refused("sessions.idleTimeout", "1d", "not a duration: write whole numbers with the units"),
    Refused("sessions.idleTimeout", "1.5h", "not a duration: write whole numbers with the units"),
    Refused("sessions.idleTimeout", "-5m", "not a duration: write whole numbers with the units"),
    Refused("sessions.idleTimeout", "", "not a duration: write whole numbers with the units"),
    Refused("sessions.idleTimeout", "0s", "must be longer than 0s"),
    Refused("sessions.absoluteTimeout", "0h0m", "must be longer than 0s"),
    Refused("sessions.idleTimeout", "13h", "idleTimeout must not be longer than absoluteTimeout"),
    Refused("sessions.absoluteTimeout", "29m", "idleTimeout must not be longer than absoluteTimeout"),
    Refused("sessions.absoluteTimeout", 3600, "a duration is a string", "must be of type string"),
    Refused("responseCache.ttl", "0s", "must be longer than 0s"),
    Refused("responseCache.providers.openai.ttl", "0s", "must be longer than 0s"),
    Refused("responseCache.providers.openai.models.gpt-x.ttl", "0s", "must be longer than 0s"),
    Refused("embeddingCache.ttl", "0ms", "must be longer than 0s"),
    Refused(f"{_RATES}.0.window", "0s", "must be longer than 0s"),
    Refused(f"{_RATES}.0.window", "soon", "not a duration: write whole numbers with the units"),
    # Quantities.
    Refused("sessions.maxBytes", "-1Ki", "not a quantity: write a number that is not negative"),
    Refused("sessions.maxBytes", -1, "not a quantity: write a number that is not negative"),
    Refused("responseCache.cacheable.maxEntryBytes", "1 Mi", "not a quantity"),
    Refused(f"{_STATE}.storage.size", "lots", "not a quantity: write a number that is not negative"),
    Refused(f"{_STATE}.storage.size", "0", "storage.size must be more than 0"),
    Refused(f"{_STATE}.resources.limits.memory", "128MB", "not a quantity"),
    Refused(f"{_STATE}.resources", {"limits": {"cpu": "1"}}, "limits.memory is required: maxmemory follows"),
    Refused(f"{_STATE}.resources", {"requests": {"memory": "1Gi"}}, "limits.memory is required"),
    # Cookies.
    Refused("sessions.cookie", {"name": "__Host-x", "secure": False}, "needs secure: true"),
    Refused("sessions.cookie", {"name": "__Secure-x", "secure": False}, "needs secure: true"),
    Refused("sessions.cookie", {"secure": False}, "needs secure: true"),
    Refused(
        "sessions.cookie", {"name": "s", "sameSite": "None", "secure": False}, "sameSite: None needs secure"
    ),
    Refused("sessions.cookie.name", "a b", "the name of a cookie holds letters, digits and"),
    Refused("sessions.cookie.name", "", "the name of a cookie holds letters, digits and"),
    Refused("sessions.cookie", {"domain": "example.com"}, "has path: / and no domain"),
    Refused("sessions.cookie", {"name": "__Host-x", "path": "/a"}, "has path: / and no domain"),
    Refused("sessions.cookie", {"path": "/a"}, "has path: / and no domain"),
    Refused(
        "sessions.cookie",
        {"name": "s", "secure": False, "partitioned": True},
        "partitioned needs secure: true",
    ),
    Refused("sessions.cookie.domain", ".example.com", "a domain is written in lower case"),
    Refused("sessions.cookie.domain", "Example.com", "a domain is written in lower case"),
    Refused("sessions.cookie.domain", "localhost", "a domain is written in lower case"),
    Refused("sessions.cookie.path", "a", "the path of a cookie begins with /"),
    Refused("sessions.cookie.path", "/a; Domain=example.com", "the path of a cookie begins with /"),
    Refused("sessions.cookie.path", "/\r\nSet-Cookie: a=b", "the path of a cookie begins with /"),
    Refused("sessions.header", {"name": "X-Auth-Token"}, "header needs carrier: Header or Either"),
    Refused(
        "sessions",
        {"carrier": "Header", "header": {"name": "Authorization"}},
        "the name of the header begins with X-",
    ),
    Refused(
        "sessions",
        {"carrier": "Either", "header": {"name": "X-A\n"}},
        "the name of the header begins with X-",
    ),
    Refused(
        "sessions.carrier",
        "Both",
        "input should be 'Cookie', 'Header' or 'Either'",
        'supported values: "Cookie", "Header", "Either"',
    ),
    Refused(
        "sessions.cookie.lifetime",
        "Forever",
        "input should be 'Persistent' or 'Browser'",
        'supported values: "Persistent", "Browser"',
    ),
    # Enumerations.
    Refused(
        "sessions.onStoreFailure",
        "Panic",
        "spec.sessions.onStoreFailure: input should be 'ReadOnly', 'Local' or 'Deny'",
        'supported values: "ReadOnly", "Local", "Deny"',
    ),
    Refused(
        "rateLimits.per-tenant.onStoreFailure",
        "ReadOnly",
        "input should be 'Local', 'Deny' or 'Allow'",
        'supported values: "Local", "Deny", "Allow"',
    ),
    Refused(
        "rateLimits.per-tenant.by",
        [{"type": "Cookie"}],
        "input should be 'Tenant', 'User', 'APIKey', 'IP', 'Model', 'Route' or 'Header'",
        'supported values: "Tenant", "User", "APIKey", "IP", "Model", "Route", "Header"',
    ),
    Refused(
        "rateLimits.per-tenant.unit",
        "Bytes",
        "input should be 'Requests', 'Tokens' or 'Concurrency'",
        'supported values: "Requests", "Tokens", "Concurrency"',
    ),
    Refused(
        "rateLimits.per-tenant.mode",
        "Audit",
        "input should be 'Enforce', 'Shadow' or 'Off'",
        'supported values: "Enforce", "Shadow", "Off"',
    ),
    Refused(
        "rateLimits.per-tenant.algorithm",
        "GCRA",
        "input should be 'SubBuckets' or 'Log'",
        'supported values: "SubBuckets", "Log"',
    ),
    Refused(
        "redis.managed.imagePullPolicy",
        "Sometimes",
        "input should be 'Always', 'IfNotPresent' or 'Never'",
        'supported values: "Always", "IfNotPresent", "Never"',
    ),
    # Rate limits.
    Refused(
        f"{_RATES}.0.limit",
        -1,
        "rates[0].limit: input should be greater than or equal to 1",
        "rates[0].limit in body should be greater than or equal to 1",
    ),
    Refused(
        f"{_RATES}.0.limit",
        0,
        "rates[0].limit: input should be greater than or equal to 1",
        "rates[0].limit in body should be greater than or equal to 1",
    ),
    Refused(
        f"{_RATES}.0.limit",
        1_000_000_001,
        "rates[0].limit: input should be less than or equal to 1000000000",
        "rates[0].limit in body should be less than or equal to 1000000000",
    ),
    Refused(_RATES, [], "the other units have at least one rate and no limit"),
    Refused("rateLimits.per-tenant.limit", 5, "the other units have at least one rate and no limit"),
    Refused("rateLimits.per-tenant.unit", "Concurrency", "unit Concurrency has limit and no rates"),
    Refused(
        "rateLimits.per-tenant",
        {"by": LIMIT["by"], "unit": "Concurrency"},
        "unit Concurrency has limit and no rates",
    ),
    Refused(
        "rateLimits.per-tenant",
        {"by": LIMIT["by"], "unit": "Concurrency", "limit": 0},
        "limit: input should be greater than or equal to 1",
        "limit in body should be greater than or equal to 1",
    ),
    Refused("rateLimits.per-tenant.weights", {"input": 2}, "weights are for unit Tokens"),
    Refused(
        "rateLimits.per-tenant",
        {**LIMIT, "unit": "Tokens", "weights": {"output": "-1"}},
        "not a decimal number",
    ),
    Refused(
        "rateLimits.per-tenant",
        {**LIMIT, "unit": "Tokens", "weights": {"output": -1}},
        "not a decimal number",
    ),
    Refused(
        "rateLimits.per-tenant",
        {**LIMIT, "unit": "Tokens", "weights": {"input": 0, "cachedInput": "0.0", "output": 0}},
        "at least one weight must be more than 0",
    ),
    Refused(
        "rateLimits.per-tenant",
        {**LIMIT, "unit": "Tokens", "algorithm": "Log"},
        "algorithm Log remembers every request: it is for unit Requests",
    ),
    Refused(
        "rateLimits.per-tenant",
        {**LIMIT, "algorithm": "Log", "rates": [{"limit": 10_001, "window": "1m"}]},
        "and limits of at most 10000",
    ),
    Refused(
        _RATES,
        [{"limit": 1, "window": f"{second}s"} for second in range(1, 10)],
        "spec.rateLimits.per-tenant.rates: must have at most 8 entries",
        "spec.rateLimits.per-tenant.rates: Too many: 9: must have at most 8 items",
    ),
    Refused(
        _RATES,
        [{"limit": 1, "window": "1m"}, {"limit": 2, "window": "60s"}],
        "each rate needs a window of its own",
    ),
    Refused(
        _RATES, [{"limit": 1}], "rates[0].window: required, and missing", "rates[0].window: Required value"
    ),
    Refused("rateLimits.per-tenant.by", [{"type": "Tenant"}] * 2, "each type may stand in by only once"),
    Refused(
        "rateLimits.per-tenant.by",
        [{"type": "Header", "name": "X-Team"}, {"type": "Header", "name": "x-team"}],
        "each type may stand in by only once, and each header",
    ),
    Refused(
        "rateLimits.per-tenant.by", [{"type": "Header"}], "type Header needs it and no other type takes it"
    ),
    Refused(
        "rateLimits.per-tenant.by",
        [{"type": "User", "name": "X-Team"}],
        "type Header needs it and no other type takes it",
    ),
    Refused(
        "rateLimits.per-tenant.by",
        [{"type": "Header", "name": "X Team"}],
        "the name of a header holds letters, digits and",
    ),
    Refused(
        "rateLimits.per-tenant.by",
        [{"type": "Header", "name": "Authorization"}],
        "a header that holds a credential is never part of a key",
    ),
    Refused(
        "rateLimits.per-tenant.by",
        [{"type": "Header", "name": "cookie"}],
        "a header that holds a credential is never part of a key",
    ),
    Refused("rateLimits.per-tenant.by", [{"type": "Route"}], "list the paths there"),
    Refused("rateLimits.per-tenant.match.models", [""], "the name of a model is not empty"),
    Refused(
        "rateLimits.per-tenant.by",
        [],
        "must have at least 1 entries",
        "by in body should have at least 1 items",
    ),
    Refused(
        "rateLimits.per-tenant.match.paths", ["v1"], "a path begins with / and holds no control characters"
    ),
    Refused("rateLimits.per-tenant.match.methods", ["post"], "a method is written in capitals, such as POST"),
    Refused("rateLimits.Per_Tenant", LIMIT, "the name of a limit is a lower-case DNS label"),
    Refused(f"rateLimits.{'a' * 41}", LIMIT, "the name of a limit is a lower-case DNS label"),
    Refused("rateLimits", {}, "must have at least 1 entries", "should have at least 1 properties"),
    Refused(
        "rateLimits",
        {f"limit-{number}": LIMIT for number in range(33)},
        "must have at most 32 entries",
        "must have at most 32 items",
    ),
    # Proxies.
    Refused("core.trustedProxies", ["10.0.0.0/33"], "not a network: write an address or a CIDR"),
    Refused("core.trustedProxies", ["proxy.example"], "not a network: write an address or a CIDR"),
    Refused(
        "core.trustedProxies",
        [f"10.0.0.{number}" for number in range(33)],
        "must have at most 32 entries",
        "must have at most 32 items",
    ),
    # Caches.
    Refused(
        "responseCache.mode",
        "Maybe",
        "input should be 'Enforce', 'Shadow' or 'Off'",
        'supported values: "Enforce", "Shadow", "Off"',
    ),
    *(
        Refused(f"embeddingCache.{field}", "float32", f"input should be {said}", "supported values: ")
        for field, said in (
            ("mode", "'Enforce', 'Shadow' or 'Off'"),
            ("expireAfter", "'Write' or 'Access'"),
            ("encoding", "'Float32' or 'Float16'"),
        )
    ),
    Refused("responseCache.scope", "Global", "scope: Global needs acceptCrossTenantTiming: true"),
    Refused(
        "responseCache",
        {"scope": "Global", "acceptCrossTenantTiming": False},
        "scope: Global needs acceptCrossTenantTiming: true",
    ),
    Refused(
        "responseCache.scope",
        "Everybody",
        "input should be 'Tenant', 'User' or 'Global'",
        'supported values: "Tenant", "User", "Global"',
    ),
    Refused(
        "responseCache.jitterPercent",
        51,
        "input should be less than or equal to 50",
        "jitterPercent in body should be less than or equal to 50",
    ),
    Refused(
        "responseCache.jitterPercent",
        -1,
        "input should be greater than or equal to 0",
        "jitterPercent in body should be greater than or equal to 0",
    ),
    Refused("responseCache.staleWhileRevalidate", "0s", "must be longer than 0s"),
    Refused("responseCache.staleIfError", "1d", "not a duration"),
    Refused("responseCache.local.ttl", "0s", "must be longer than 0s"),
    Refused("responseCache.local.maxBytes", "-1", "not a quantity"),
    Refused("responseCache.coalesce.waitMax", "0s", "must be longer than 0s"),
    Refused(
        "responseCache.cacheable.toolCalls",
        "Always",
        "input should be 'Never' or 'Allow'",
        'supported values: "Never", "Allow"',
    ),
    Refused("responseCache.cacheable.maxTemperature", "warm", "not a decimal number"),
    Refused("responseCache.cacheable.maxTemperature", -1, "not a decimal number"),
    Refused("responseCache.tagHeader", "X Tag", "the name of a header holds letters, digits and '-'"),
    Refused(
        "responseCache.prices", {"currency": "USD"}, "providers: required, and missing", "Required value"
    ),
    Refused(
        "responseCache.prices.providers",
        {},
        "must have at least 1 entries",
        "should have at least 1 properties",
    ),
    Refused(
        "responseCache.prices",
        {"currency": "usd", "providers": {"openai": {"models": {"gpt-x": {"input": 1, "output": 2}}}}},
        "a currency is written as its code of ISO 4217",
    ),
    Refused(
        "responseCache.prices.providers.openai.models.gpt-x",
        {"input": "-1", "output": 2},
        "not a decimal number",
    ),
    Refused(
        "responseCache.prices.providers.openai.models.gpt-x",
        {"input": 1},
        "output: required, and missing",
        "output: Required value",
    ),
    Refused(
        "responseCache.providers",
        {f"provider-{number}": {} for number in range(17)},
        "must have at most 16 entries",
        "must have at most 16 items",
    ),
    Refused(
        "responseCache.cacheable.finishReasons",
        [],
        "must have at least 1 entries",
        "finishReasons in body should have at least 1 items",
    ),
    Refused("purge.all", "", "string should have at least 1 character", "should be at least 1 chars long"),
    *(
        Refused(
            f"purge.{part}",
            {"a": ""},
            f"spec.purge.{part}.a: string should have at least 1 character",
            "should be at least 1 chars long",
        )
        for part in ("tenants", "providers", "models", "tags")
    ),
    Refused(
        "purge.kinds",
        {"sessions": "1"},
        "spec.purge.kinds.sessions: unknown field",
        'unknown field "spec.purge.kinds.sessions"',
    ),
    Refused(
        "purge.tags",
        {f"tag-{number}": "1" for number in range(65)},
        "must have at most 64 entries",
        "must have at most 64 items",
    ),
    # Redis.
    Refused("redis", {}, "spec.redis.managed: required, and missing", "spec.redis.managed: Required value"),
    *(
        Refused(f"redis.managed.podMetadata.{kind}", {key: "x"}, "belongs to the operator or to Kubernetes")
        for kind in ("labels", "annotations")
        for key in ("app.kubernetes.io/name", f"{names.GROUP}/policy", "statefulset.kubernetes.io/pod-name")
    ),
    Refused(
        "redis.managed.imagePullSecrets",
        [{"name": ""}],
        "string should have at least 1 character",
        "should be at least 1 chars long",
    ),
    Refused(
        "redis.managed.networkPolicy.extraFrom",
        [{}] * 17,
        "must have at most 16 entries",
        "must have at most 16 items",
    ),
    Refused(
        "redis.managed.scheduling.tolerations",
        [{"operator": "Exists"}] * 17,
        "must have at most 16 entries",
        "must have at most 16 items",
    ),
    Refused("redis.managed.image", "my image", "an image is written without spaces"),
    Refused(
        "core.podSelector.matchLabels",
        {},
        "must have at least 1 entries",
        "should have at least 1 properties",
    ),
    Refused(f"{_STATE}.config", {"dir": "/x"}, "belongs to the operator"),
    Refused(f"{_STATE}.config", {"tls-port": "1"}, "belongs to the operator"),
    Refused(f"{_STATE}.config", {"maxclients": "1\nloadmodule /x.so"}, "holds a newline", "holds no newline"),
    Refused(f"{_STATE}.config", {"maxclients": "1\x7f"}, "holds a newline", "holds no newline"),
    Refused(
        f"{_STATE}.config",
        {"Max Clients": "1"},
        "is not a directive of redis.conf",
        "a key is a directive of redis.conf",
    ),
    Refused(
        f"{_STATE}.config", {"maxclients": "1" * 1025}, "longer than 1024 characters", "may not be more than"
    ),
    Refused(
        f"{_STATE}.config",
        {f"directive-{number}": "1" for number in range(65)},
        "must have at most 64 entries",
        "must have at most 64 items",
    ),
)

#: Owned directives, of either server.
OWNED_DIRECTIVES = (*directives.OWNED, "cluster-enabled", "enable-module-command", "unixsocketperm")

GOOD_NAMES = ("core", "a", "a" * names.MAX_NAME_LENGTH, "core-2")
BAD_NAMES = ("Core", "2core", "core-", "a" * (names.MAX_NAME_LENGTH + 1), "core.eu")
