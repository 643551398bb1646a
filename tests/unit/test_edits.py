"""What the verbs change, whom they warn of, and the tree that ``status`` shows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.worlds import at_rest, policy, with_status

from cachepolicy.spec import CachePolicySpec, parse_spec
from cachepolicy_operator import edits, verbs
from cachepolicy_operator.edits import HIBERNATE, PAUSE, RESUME, WAKE, Edit

NOW = datetime(2026, 11, 24, 12, 0, 0, 5, tzinfo=UTC)


def merged(target: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@pytest.mark.parametrize(
    ("change", "back"),
    [(PAUSE, RESUME), (HIBERNATE, WAKE)],
    ids=["pause", "hibernate"],
)
def test_a_verb_and_its_opposite_leave_the_spec_as_it_was(change: Edit, back: Edit) -> None:
    before = policy()
    changed = merged(before, change.patch)
    assert changed["spec"] != before["spec"]
    assert isinstance(parse_spec(changed["spec"]), CachePolicySpec)
    assert merged(changed, back.patch) == before


@pytest.mark.parametrize("scope", [None, *verbs.SCOPES.values()])
def test_a_purge_sets_one_value_that_was_never_there(scope: str | None) -> None:
    edit = edits.purge(scope, "responses" if scope == "kinds" else "x", NOW)
    spec = parse_spec(merged(policy(), edit.patch)["spec"])
    assert isinstance(spec, CachePolicySpec)
    assert spec.purge is not None
    ((_, value),) = spec.purge.values()
    assert value == "2026-11-24T12:00:00.000005Z"


def managed(manager: str, fields: dict[str, Any], **more: str) -> dict[str, Any]:
    found = policy()
    found["metadata"]["managedFields"] = [{"manager": manager, "fieldsV1": fields, **more}]
    return found


def test_a_tool_that_owns_the_field_will_set_it_back() -> None:
    found = managed("argocd-controller", {"f:spec": {"f:paused": {}}})
    told = edits.warning(found, PAUSE)
    assert told is not None
    assert told.startswith("Argo CD manages spec.paused of core and will set it back")
    whole = managed("kustomize-controller", {"f:spec": {"f:redis": {}}})
    assert "Flux manages spec.redis.managed.hibernated" in str(edits.warning(whole, HIBERNATE))


def test_a_tool_that_owns_other_fields_is_named_too() -> None:
    found = managed("kustomize-controller", {"f:spec": {"f:sessions": {}}})
    assert "stays as long as Git does not name it" in str(edits.warning(found, PAUSE))


def test_nobody_is_warned_of_people_and_of_the_operators_status() -> None:
    assert edits.warning(managed("kubectl-client-side-apply", {"f:spec": {"f:paused": {}}}), PAUSE) is None
    assert edits.warning(managed("argocd-x", {"f:status": {}}, subresource="status"), PAUSE) is None
    assert edits.warning(policy(), PAUSE) is None


def test_the_tree_shows_conditions_servers_and_objects() -> None:
    world = with_status(at_rest())
    lines = list(edits.tree(world.policy, [{"kind": "Service", "metadata": {"name": "core-state"}}]))
    text = "\n".join(lines)
    assert lines[0] == "ns/core  generation 1"
    assert "├─ Ready          True    Ready" in text
    assert "state 1/1  redis 7.0.15  core-state.ns.svc:6379  maxmemory 96Mi" in text
    assert lines[-1] == "   └─ Service core-state"


def test_the_tree_says_when_the_operator_has_not_seen_the_newest_spec() -> None:
    (line,) = edits.tree(policy(generation=3), [])
    assert line == "ns/core  generation 3, the operator has seen none"
