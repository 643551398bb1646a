"""What a policy asks of its reader: no more than it uses, and each capability is asked for by something."""

from __future__ import annotations

from typing import Any

import pytest

from cachepolicy import capabilities
from cachepolicy.document import build_document
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec

RATES = [{"limit": 1, "window": "1m"}]
BY = [{"type": "Tenant"}]

#: For each capability, a policy that an older reader would enforce wrongly.
ASKING: list[tuple[str, dict[str, Any]]] = [
    ("sessions", {"sessions": {}}),
    ("sessions/header", {"sessions": {"carrier": "Header"}}),
    ("sessions/cookieScope", {"sessions": {"cookie": {"name": "s", "domain": "example.com"}}}),
    ("rateLimits/requests", {"rateLimits": {"a": {"by": BY, "rates": RATES}}}),
    ("rateLimits/tokens", {"rateLimits": {"a": {"by": BY, "unit": "Tokens", "rates": RATES}}}),
    ("rateLimits/concurrency", {"rateLimits": {"a": {"by": BY, "unit": "Concurrency", "limit": 1}}}),
    ("rateLimits/model", {"rateLimits": {"a": {"by": [{"type": "Model"}], "rates": RATES}}}),
    ("rateLimits/model", {"rateLimits": {"a": {"by": BY, "rates": RATES, "match": {"models": ["gpt-*"]}}}}),
    (
        "rateLimits/route",
        {"rateLimits": {"a": {"by": [{"type": "Route"}], "rates": RATES, "match": {"paths": ["/v1/*"]}}}},
    ),
    (
        "rateLimits/header",
        {"rateLimits": {"a": {"by": [{"type": "Header", "name": "X-Team"}], "rates": RATES}}},
    ),
    ("rateLimits/mode", {"rateLimits": {"a": {"by": BY, "rates": RATES, "mode": "Shadow"}}}),
    ("trustedProxies", {"core": {"trustedProxies": ["10.0.0.0/8"]}, "sessions": {}}),
    ("responseCache", {"responseCache": {}}),
    ("responseCache/mode", {"responseCache": {"mode": "Off"}}),
    ("responseCache/scope", {"responseCache": {"scope": "User"}}),
    ("responseCache/temperature", {"responseCache": {"cacheable": {"maxTemperature": "0.5"}}}),
    ("embeddingCache", {"embeddingCache": {"encoding": "Float16", "expireAfter": "Access"}}),
    ("embeddingCache/mode", {"embeddingCache": {"mode": "Shadow"}}),
    ("purge", {"responseCache": {}, "purge": {"all": "1", "providers": {"openai": "1"}}}),
    ("purge/scopes", {"responseCache": {}, "purge": {"tenants": {"acme": "1"}}}),
]


def required(sections: dict[str, Any]) -> set[str]:
    spec = CachePolicySpec.model_validate({"redis": {"managed": {}}, **sections})
    document = build_document(
        namespace="shop",
        name="core",
        uid="u",
        spec=spec,
        endpoints=dict.fromkeys(Role, "redis://127.0.0.1"),
        previous=None,
        now_ms=1,
    )
    return set(document.requires)


@pytest.mark.parametrize(
    ("name", "sections"), ASKING, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_policy_asks_for_what_it_uses_and_for_nothing_else(name: str, sections: dict[str, Any]) -> None:
    """Beside the capability of the section itself."""
    asked = required(sections)
    assert name in asked
    assert {other for other in asked - {name} if "/" in other} <= {"rateLimits/requests"}


def test_every_capability_is_asked_for_by_something() -> None:
    """One that nothing asks for protects nobody."""
    assert {name for name, _ in ASKING} == capabilities.ALL
