"""Which limits of a policy apply to a request, in which phase, and what their keys are made of."""

from __future__ import annotations

from typing import Any

import pytest

from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy.limits import RateLimit
from cachepolicy_runtime.ratelimit import Limits, Subject, compile_limits
from cachepolicy_runtime.ratelimit.rules import MAX_CALLERS, MAX_PLACES
from cachepolicy_runtime.store.port import Check, LeaseCheck, LimitCheck
from cachepolicy_runtime.usage import Usage

KEYS = KeyLayout("masterclaw/core")
ANN = Identity("acme", "ann", "key-1")
RATES = [{"limit": 10, "window": "1m"}]
POST = Subject("POST", "/v1/chat", "192.0.2.1", ANN, ((b"x-team", b"red"),))


def by(*kinds: str) -> list[dict[str, str]]:
    return [
        {"type": "Header", "name": kind[7:]} if kind.startswith("header:") else {"type": kind}
        for kind in kinds
    ]


def limits(**named: dict[str, Any]) -> Limits:
    """Limits of requests by tenant, with these differences."""
    return compile_limits(
        {
            name: RateLimit.model_validate({"by": by("Tenant"), "rates": RATES, **limit})
            for name, limit in named.items()
        }
    )


def slots(limit: int, **more: Any) -> dict[str, Any]:
    return {"unit": "Concurrency", "limit": limit, "rates": [], **more}


def keys_of(checks: tuple[Check, ...]) -> list[str]:
    return [
        key
        for check in checks
        for key in ([rate.key for rate in check.rates] if isinstance(check, LimitCheck) else [check.key])
    ]


def asked(which: Limits, subject: Subject = POST) -> list[str]:
    """Keys that are asked before the request is let in."""
    found = which.asked(subject, KEYS)
    return keys_of(found.checks) if found is not None else []


def spent(
    which: Limits,
    subject: Subject,
) -> list[str]:
    """Keys that are asked before a provider is."""
    found = which.asked_to_spend(subject, KEYS, Usage(1))
    return keys_of(found.checks) if found is not None else []


# --- phases


def test_tokens_and_everything_by_model_wait_for_the_provider() -> None:
    which = limits(
        requests={},
        parallel=slots(3),
        tokens={"unit": "Tokens"},
        by_model={"by": by("Tenant", "Model")},
        for_models={"match": {"models": ["gpt-*"]}},
        slots_by_model=slots(2, by=by("Model")),
    )
    assert asked(which) == [
        "masterclaw/core:w:requests:60000:tenant=acme",
        "masterclaw/core:p:parallel:tenant=acme",
    ]
    assert spent(which, POST.with_model("gpt-x")) == [
        "masterclaw/core:w:tokens:60000:tenant=acme",
        "masterclaw/core:w:by_model:60000:tenant=acme&model=gpt-x",
        "masterclaw/core:w:for_models:60000:tenant=acme",
        "masterclaw/core:p:slots_by_model:model=gpt-x",
    ]
    assert spent(which, POST.with_model(None)) == ["masterclaw/core:w:tokens:60000:tenant=acme"]
    assert which.spends
    assert not limits(requests={}).spends


@pytest.mark.parametrize(
    ("globs", "matching", "other"),
    [
        (["gpt-4o"], ["gpt-4o"], ["gpt-4o-mini", "GPT-4o"]),
        (["gpt-4o*"], ["gpt-4o", "gpt-4o-mini"], ["gpt-4", "x/gpt-4o"]),
        (["*/llama", "a.c"], ["meta/llama", "a/b/llama", "a.c"], ["llama", "abc"]),
    ],
)
def test_models_are_globs_without_segments(globs: list[str], matching: list[str], other: list[str]) -> None:
    which = limits(a={"match": {"models": globs}})
    assert [model for model in matching + other if spent(which, POST.with_model(model))] == matching


def test_without_a_request_limits_by_path_method_address_and_header_do_not_apply() -> None:
    """Jobs spend, too."""
    which = limits(
        tokens={"unit": "Tokens"},
        path={"unit": "Tokens", "match": {"paths": ["/**"]}},
        method={"unit": "Tokens", "match": {"methods": ["POST"]}},
        ip={"unit": "Tokens", "by": by("IP")},
        header={"unit": "Tokens", "by": by("header:X-Team")},
    )
    job = Subject("POST", "", None, ANN, (), "gpt-x")
    assert spent(which, job) == ["masterclaw/core:w:tokens:60000:tenant=acme"]
    assert len(spent(which, POST.with_model("gpt-x"))) == 5


# --- modes


def test_a_shadow_is_asked_beside_and_what_is_off_is_not_asked() -> None:
    which = limits(on={}, shadow={"mode": "Shadow"}, off={"mode": "Off"})
    found = which.asked(POST, KEYS)
    assert found is not None
    assert keys_of(found.checks) == ["masterclaw/core:w:on:60000:tenant=acme"]
    assert keys_of(found.shadows) == ["masterclaw/core:w:shadow:60000:tenant=acme"]
    assert which.asked(POST._replace(identity=None), KEYS) is None


# --- parts of a key


def test_routes_are_the_globs_that_the_policy_lists_and_the_first_one_counts() -> None:
    """A caller cannot make up new ones."""
    which = limits(a={"by": by("Route"), "match": {"paths": ["/v1/chat", "/v1/*", "/v2/**"]}})
    found = [
        asked(which, POST._replace(path=path)) for path in ("/v1/chat", "/v1/x", "/v1/y", "/v2/a/b", "/")
    ]
    prefix = "masterclaw/core:w:a:60000:route="
    assert found == [
        [f"{prefix}%2Fv1%2Fchat"],
        [f"{prefix}%2Fv1%2F%2A"],
        [f"{prefix}%2Fv1%2F%2A"],
        [f"{prefix}%2Fv2%2F%2A%2A"],
        [],
    ]


@pytest.mark.parametrize(
    ("headers", "counted"),
    [
        (((b"x-team", b"red"),), "red"),
        (((b"x-team", b"a&b=c"),), "a%26b%3Dc"),
        (((b"x-team", b"red"), (b"x-other", b"1"), (b"x-team", b"blue")), "red%2C%20blue"),
        (((b"x-team", b""),), "-"),
        ((), "@none"),
        (((b"x-team", b"@none"),), "%40none"),
    ],
)
def test_a_header_counts_by_all_its_values_and_so_does_its_absence(
    headers: tuple[tuple[bytes, bytes], ...], counted: str
) -> None:
    """Whoever leaves it out shares a count with everybody who does."""
    which = limits(a={"by": by("header:X-Team")})
    assert asked(which, POST._replace(headers=headers)) == [
        f"masterclaw/core:w:a:60000:header:x-team={counted}"
    ]


def test_a_long_value_is_in_the_key_as_a_digest() -> None:
    which = limits(a={"by": by("header:X-Team")}, b={"by": by("Model")})
    (first,) = asked(which, POST._replace(headers=((b"x-team", b"x" * 8000),)))
    (other,) = asked(which, POST._replace(headers=((b"x-team", b"x" * 7999 + b"y"),)))
    assert first != other
    assert len(first) < 150
    (model,) = spent(which, POST.with_model("m" * 8000))
    assert len(model) < 150


# --- what is asked


def test_an_exact_limit_has_a_log_and_one_of_concurrency_has_leases() -> None:
    which = limits(log={"algorithm": "Log"}, parallel=slots(4))
    found = which.asked(POST, KEYS)
    assert found is not None
    log, leases = found.checks
    assert isinstance(log, LimitCheck)
    assert (log.rates[0].key, log.rates[0].log) == ("masterclaw/core:g:log:60000:tenant=acme", True)
    assert isinstance(leases, LeaseCheck)
    assert (leases.limit, found.leases) == (4, ("masterclaw/core:p:parallel:tenant=acme",))


@pytest.mark.parametrize(
    ("guess", "units"),
    [
        (Usage(10, 0, 5), 10 + 4 * 5),
        (Usage(10, 15, 0), 12),  # 11.5, rounded up
        (Usage(0, 0, 0), 0),
        (Usage(100, 0, 32_000), 1000),  # the output is a bound: the limit itself is asked for
        (Usage(1001, 0, 0), 1001),  # the input is no bound: this can never pass
    ],
)
def test_tokens_are_reserved_by_their_weights(guess: Usage, units: int) -> None:
    which = limits(
        a={
            "unit": "Tokens",
            "weights": {"cachedInput": "0.1", "output": 4},
            "rates": [{"limit": 1000, "window": "1m"}, {"limit": 5000, "window": "1h"}],
        }
    )
    found = which.asked_to_spend(POST, KEYS, guess)
    assert found is not None
    (check,) = found.checks
    assert isinstance(check, LimitCheck)
    assert check.weight == units
    assert found.tokens


def test_a_cost_is_the_weight_of_windows() -> None:
    which = limits(a={}, b={"match": {"paths": ["/v1/*"]}})
    found = [which.asked(POST, KEYS, cost) for cost in (1, 5, 1)]
    weights = [
        [check.weight for check in one.checks if isinstance(check, LimitCheck)] for one in found if one
    ]
    assert weights == [[1, 1], [5, 5], [1, 1]]


# --- what is remembered


def test_a_caller_that_comes_again_is_known_by_place_and_identity() -> None:
    which = limits(a={"match": {"paths": ["/v1/*"]}})
    assert which.known("POST", "/v1/chat", ANN) is None
    found = which.asked(POST, KEYS)
    assert found is not None
    assert which.known("POST", "/v1/chat", Identity("acme", "ann", "key-1")) is found
    assert which.known("POST", "/v1/chat", Identity("other", "ann", "key-1")) is None
    assert which.known("GET", "/v1/chat", ANN) is None
    assert which.asked(POST._replace(path="/v1/other"), KEYS) is found
    assert asked(which, POST._replace(path="/v2")) == []


@pytest.mark.parametrize("kind", ["IP", "header:X-Team"])
def test_who_is_limited_by_more_than_identity_is_not_known_by_it(kind: str) -> None:
    which = limits(a={"by": by("Tenant", kind)})
    first = asked(which)
    assert which.known("POST", "/v1/chat", ANN) is None
    assert asked(which, POST._replace(ip="198.51.100.9", headers=((b"x-team", b"blue"),))) != first
    assert asked(which) == first


def test_paths_and_callers_that_somebody_makes_up_do_not_fill_the_memory() -> None:
    which = limits(a={"by": by("IP"), "match": {"paths": ["/v1/**"]}})
    for number in range(MAX_PLACES + 10):
        which.asked(POST._replace(path=f"/v1/{number}"), KEYS)
    assert len(which._places) <= MAX_PLACES
    for number in range(MAX_CALLERS + 10):
        which.asked(POST._replace(ip=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"), KEYS)
    assert sum(len(plan.callers) for plan in which._plans.values()) <= MAX_CALLERS


# --- parts of a policy


def test_one_limit_can_be_asked_by_name_and_left_out_of_the_others() -> None:
    which = limits(a={}, b={}, off={"mode": "Off"}, tokens={"unit": "Tokens"})
    assert asked(which.named("b")) == ["masterclaw/core:w:b:60000:tenant=acme"]
    assert asked(which.without(frozenset({"b"}))) == ["masterclaw/core:w:a:60000:tenant=acme"]
    assert which.without(frozenset()) is which
    assert which.named("b") is which.named("b")
    assert not which.named("off").any
    for name in ("tokens", "never"):
        with pytest.raises(KeyError):
            which.named(name)
    assert which.named("b").denials is None
