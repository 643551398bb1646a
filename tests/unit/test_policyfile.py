"""Mistakes in CachePolicy files are found without a cluster, each with its line, its field and what is allowed."""

from __future__ import annotations

import pytest

from cachepolicy_operator.policyfile import allowed_fields, read_policies

HEAD = (
    "apiVersion: cache.masterclaw.io/v1alpha1\nkind: CachePolicy\nmetadata: {name: core, namespace: shop}\n"
)


def problems(text: str) -> list[tuple[int, str]]:
    return [(problem.line, str(problem)) for problem in read_policies(text).problems]


def test_a_valid_policy_is_read_with_its_namespace_and_name() -> None:
    found = read_policies(HEAD + "spec: {redis: {managed: {}}, responseCache: {}}\n")
    assert found.problems == ()
    assert str(found.policies[0]) == "shop/core"
    assert found.policies[0].spec.sections == ("responseCache",)


def test_a_policy_without_a_namespace_is_in_the_default_one() -> None:
    text = HEAD.replace(", namespace: shop", "") + "spec: {redis: {managed: {}}, responseCache: {}}\n"
    assert str(read_policies(text).policies[0]) == "default/core"


def test_several_documents_are_read_and_others_are_skipped_by_name() -> None:
    one = HEAD + "spec: {redis: {managed: {}}, sessions: {}}\n"
    found = read_policies(f"kind: Namespace\napiVersion: v1\n---\n{one}---\n{one}---\n")
    assert len(found.policies) == 2
    assert [skipped.what for skipped in found.skipped] == ["Namespace is not a CachePolicy"]
    assert [policy.line for policy in found.policies] == [4, 9]


@pytest.mark.parametrize(
    ("spec", "line", "message"),
    [
        (
            "  redis: {managed: {}}\n  sesions: {}\n  responseCache: {}\n",
            6,
            "spec.sesions: unknown field; did you mean sessions? Allowed here: paused, redis, core",
        ),
        (
            "  redis: {managed: {}}\n  sessions:\n    idletimeout: 1m\n",
            7,
            "spec.sessions.idletimeout: unknown field; did you mean idleTimeout?",
        ),
        (
            "  redis: {managed: {}}\n  sessions:\n    idleTimeout: 1d\n",
            7,
            "spec.sessions.idleTimeout: '1d' is not a duration",
        ),
        (
            "  redis: {managed: {state: {storage: {size: -1Gi}}}}\n  sessions: {}\n",
            5,
            "spec.redis.managed.state.storage.size: '-1Gi' is not a quantity",
        ),
        ("  redis: {managed: {}}\n", 5, "spec: at least one of sessions, rateLimits"),
        ("  sessions: {}\n", 5, "spec.redis: required"),
    ],
)
def test_a_mistake_in_the_spec_is_told_with_line_and_path(spec: str, line: int, message: str) -> None:
    found = problems(HEAD + "spec:\n" + spec)
    assert len(found) == 1
    assert found[0][0] == line
    assert message in found[0][1]


def test_a_wrong_item_is_told_once_and_not_also_as_a_list_that_is_too_short() -> None:
    spec = "spec:\n  redis: {managed: {}}\n  rateLimits:\n    a:\n      by: [{type: tenant}]\n      rates:\n        - {limit: 1, window: 0s}\n"
    assert [text.partition(":")[0] for _, text in problems(HEAD + spec)] == [
        "spec.rateLimits.a.by[0].type",
        "spec.rateLimits.a.rates[0].window",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD.replace("v1alpha1", "v1"), "apiVersion: must be cache.masterclaw.io/v1alpha1"),
        (HEAD.replace("kind: CachePolicy", "kind: CachePolcy"), "kind: must be CachePolicy"),
        (HEAD.replace("name: core", "name: Core"), "metadata.name: must be a DNS-1035 label"),
        (HEAD.replace("name: core", f"name: {'c' * 41}"), "metadata.name: must be a DNS-1035 label"),
        (HEAD.replace("{name: core, namespace: shop}", "{}"), "metadata.name: required"),
        (HEAD, "spec: required"),
        (HEAD + "specs: {}\n", "specs: unknown field; did you mean spec?"),
        ("- a\n- b\n", "must be one Kubernetes object"),
        ("a: [1\n", "not YAML"),
        (HEAD + "kind: Other\n", "the key 'kind' stands twice"),
        ("\x00", "not YAML"),
        ("? [a]\n: b\n", "not YAML"),
        ("when: 2026-99-99\n", "not YAML"),
    ],
)
def test_a_document_that_is_no_good_policy_is_refused(text: str, message: str) -> None:
    assert any(message in found for _, found in problems(text)), problems(text)


def test_the_allowed_fields_follow_maps_lists_and_optional_objects() -> None:
    assert allowed_fields(["rateLimits", "per-user", "rates", 0]) == ("limit", "window")
    assert allowed_fields(["responseCache", "providers", "openai"]) == ("ttl", "models")
