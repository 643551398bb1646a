"""The spec: every refusal names the field and says what is allowed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cachepolicy import directives
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec, name_refusal, parse_spec

LIMIT = {"by": [{"type": "Tenant"}], "rates": [{"limit": 60, "window": "1m"}]}
FULL: dict[str, Any] = {
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
    "purge": {"all": "1"},
}


def with_value(path: str, value: Any) -> dict[str, Any]:
    """FULL with one value changed; ``path`` is dotted and makes what is missing."""
    data = copy.deepcopy(FULL)
    target = data
    *parents, last = path.split(".")
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    target[last] = value
    return data


def refusals(data: dict[str, Any]) -> str:
    result = parse_spec(data)
    assert not isinstance(result, CachePolicySpec), "accepted"
    return "\n".join(map(str, result))


def test_the_whole_spec_is_accepted_and_names_its_sections_and_servers() -> None:
    spec = parse_spec(FULL)
    assert isinstance(spec, CachePolicySpec)
    assert spec.sections == ("sessions", "rateLimits", "responseCache", "embeddingCache")
    assert spec.roles == (Role.STATE, Role.CACHE)


@pytest.mark.parametrize(
    ("sections", "roles", "control"),
    [
        ({"sessions": {}}, (Role.STATE,), Role.STATE),
        ({"embeddingCache": {}}, (Role.CACHE,), Role.CACHE),
        ({"rateLimits": {"a": LIMIT}, "responseCache": {}}, (Role.STATE, Role.CACHE), Role.STATE),
    ],
)
def test_a_server_exists_if_and_only_if_one_of_its_sections_does(
    sections: dict[str, Any], roles: tuple[Role, ...], control: Role
) -> None:
    spec = parse_spec({"redis": {"managed": {}}, **sections})
    assert isinstance(spec, CachePolicySpec)
    assert (spec.roles, spec.control_role) == (roles, control)


REFUSED = [
    ("rateLimit", {}, "spec.rateLimit: unknown field"),
    ("redis.managed.state.memory", "1Gi", "spec.redis.managed.state.memory: unknown field"),
    ("sessions.idleTimeout", "1d", "spec.sessions.idleTimeout: '1d' is not a duration"),
    ("sessions.idleTimeout", "0s", "spec.sessions.idleTimeout: must be longer than 0s"),
    ("sessions.idleTimeout", "13h", "idleTimeout must not be longer than absoluteTimeout"),
    ("sessions.maxBytes", "-1Ki", "spec.sessions.maxBytes: '-1Ki' is not a quantity"),
    ("sessions.cookie", {"name": "__Host-x", "secure": False}, "needs secure: true"),
    ("sessions.cookie", {"secure": False}, "needs secure: true"),
    ("sessions.cookie", {"name": "s", "sameSite": "None", "secure": False}, "sameSite: None needs secure"),
    (
        "sessions.onStoreFailure",
        "Panic",
        "spec.sessions.onStoreFailure: input should be 'ReadOnly', 'Local' or 'Deny'",
    ),
    ("rateLimits.per-tenant.rates.0.limit", -1, "rates[0].limit: input should be greater than or equal to 1"),
    ("rateLimits.per-tenant.rates.0.window", "0s", "rates[0].window: must be longer than 0s"),
    ("rateLimits.per-tenant.rates", [], "spec.rateLimits.per-tenant.rates: must have at least 1 entries"),
    ("rateLimits.per-tenant.by", [{"type": "Tenant"}] * 2, "each type may stand in by only once"),
    ("rateLimits.Per_Tenant", LIMIT, "the name of a limit is a lower-case DNS label"),
    ("responseCache.ttl", "0s", "spec.responseCache.ttl: must be longer than 0s"),
    ("redis.managed.state.resources", {"limits": {"cpu": "1"}}, "limits.memory is required"),
    (
        "redis.managed.state.storage.size",
        "lots",
        "spec.redis.managed.state.storage.size: 'lots' is not a quantity",
    ),
    ("redis.managed.state.config", {"dir": "/x"}, "dir belongs to the operator"),
    ("redis.managed.state.config", {"tls-port": "1"}, "tls-port belongs to the operator"),
    ("redis.managed.state.config", {"maxclients": "1\nloadmodule /x.so"}, "holds a newline"),
    ("redis.managed.state.config", {"Max Clients": "1"}, "is not a directive of redis.conf"),
]


@pytest.mark.parametrize(
    ("path", "value", "sentence"), REFUSED, ids=[f"{row[0]}={row[1]}"[:60] for row in REFUSED]
)
def test_a_bad_value_is_refused_with_its_path_and_what_is_allowed(
    path: str, value: Any, sentence: str
) -> None:
    assert sentence in refusals(with_value(path, value))


def test_a_policy_without_any_section_is_refused() -> None:
    assert "look for a misspelt section" in refusals({"redis": {"managed": {}}})


@pytest.mark.parametrize(("server", "section"), [("state", "responseCache"), ("cache", "sessions")])
def test_settings_of_a_server_that_does_not_exist_are_refused(server: str, section: str) -> None:
    assert f"redis.managed.{server} needs" in refusals({"redis": {"managed": {server: {}}}, section: {}})


def test_the_most_specific_ttl_wins() -> None:
    spec = parse_spec(FULL)
    assert isinstance(spec, CachePolicySpec)
    assert spec.response_cache is not None
    ttl_for = spec.response_cache.ttl_for
    assert [str(ttl_for(*of)) for of in (("openai", "gpt-x"), ("openai", "other"), ("anthropic", "x"))] == [
        "5m",
        "1h",
        "10m",
    ]


@pytest.mark.parametrize("name", ["core", "a", "a" * 40, "core-2"])
def test_names_that_services_can_carry_are_accepted(name: str) -> None:
    assert name_refusal(name) is None


@pytest.mark.parametrize("name", ["", "Core", "2core", "core-", "a" * 41, "core.eu", "core\n"])
def test_other_names_are_refused(name: str) -> None:
    assert "DNS-1035" in (name_refusal(name) or "")


@pytest.mark.parametrize(
    "key", [*directives.OWNED, "cluster-enabled", "enable-module-command", "unixsocketperm"]
)
def test_every_directive_that_the_operator_owns_is_refused(key: str) -> None:
    assert "belongs to the operator" in (directives.refusal(key, "x") or "")
