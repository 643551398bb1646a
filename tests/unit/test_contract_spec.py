"""The spec: every refusal names the field and says what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from tests.policies import BAD_NAMES, FULL, GOOD_NAMES, LIMIT, OWNED_DIRECTIVES, REFUSED, Refused, with_value

from cachepolicy import directives
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec, name_refusal, parse_spec


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


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_a_bad_value_is_refused_with_its_path_and_what_is_allowed(row: Refused) -> None:
    said = refusals(with_value(row.path, row.value))
    assert row.sentence in said
    assert f"spec.{row.path.split('.', maxsplit=1)[0]}" in said


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


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_that_services_can_carry_are_accepted(name: str) -> None:
    assert name_refusal(name) is None


@pytest.mark.parametrize("name", ["", *BAD_NAMES, "core\n"])
def test_other_names_are_refused(name: str) -> None:
    assert "DNS-1035" in (name_refusal(name) or "")


@pytest.mark.parametrize("key", OWNED_DIRECTIVES)
def test_every_directive_that_the_operator_owns_is_refused(key: str) -> None:
    assert "belongs to the operator" in (directives.refusal(key, "x") or "")


def test_a_list_is_not_called_too_short_for_an_item_that_is_wrong() -> None:
    found = refusals(with_value("rateLimits.per-tenant.rates", [{"limit": 0, "window": "1m"}]))
    assert found.splitlines() == [
        "spec.rateLimits.per-tenant.rates[0].limit: input should be greater than or equal to 1"
    ]


@pytest.mark.parametrize(
    ("limit", "needed", "spends"),
    [
        (LIMIT, ["rateLimits/requests"], False),
        ({**LIMIT, "algorithm": "Log"}, ["rateLimits/requests"], False),
        ({**LIMIT, "unit": "Tokens"}, ["rateLimits/tokens"], True),
        ({"by": LIMIT["by"], "unit": "Concurrency", "limit": 1}, ["rateLimits/concurrency"], False),
        ({**LIMIT, "match": {"models": ["x"]}}, ["rateLimits/requests", "rateLimits/model"], True),
        ({**LIMIT, "by": [{"type": "Model"}]}, ["rateLimits/requests", "rateLimits/model"], True),
        (
            {**LIMIT, "by": [{"type": "Route"}], "match": {"paths": ["/a"]}},
            ["rateLimits/requests", "rateLimits/route"],
            False,
        ),
        (
            {**LIMIT, "by": [{"type": "Header", "name": "X-Team"}], "mode": "Shadow"},
            ["rateLimits/requests", "rateLimits/header", "rateLimits/mode"],
            False,
        ),
        ({**LIMIT, "mode": "Off"}, ["rateLimits/requests", "rateLimits/mode"], False),
    ],
)
def test_a_limit_asks_for_what_an_older_reader_would_enforce_wrongly(
    limit: dict[str, Any], needed: list[str], spends: bool
) -> None:
    """An exact log may be kept in sub-buckets: they admit less, never more."""
    spec = parse_spec(with_value("rateLimits", {"a": limit}))
    assert isinstance(spec, CachePolicySpec)
    assert spec.rate_limits is not None
    assert list(spec.rate_limits["a"].requires) == needed
    assert spec.rate_limits["a"].in_spend_phase is spends


def test_trusted_proxies_ask_for_a_reader_that_knows_them() -> None:
    spec = parse_spec(with_value("core.trustedProxies", ["10.0.0.0/8", "fd00::/8", "192.0.2.1"]))
    assert isinstance(spec, CachePolicySpec)
    assert [str(cidr) for cidr in spec.core.trusted_proxies] == ["10.0.0.0/8", "fd00::/8", "192.0.2.1"]
    assert spec.core.requires == ("trustedProxies",)
    assert CachePolicySpec.model_validate(FULL).core.requires == ()
