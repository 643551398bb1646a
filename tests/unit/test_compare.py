"""Comparing before sending, on objects that a real API server gave back (fixtures/record.py)."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cachepolicy.names import FIELD_MANAGER
from cachepolicy_operator.compare import difference, owned_fields

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "recorded.json").read_text())


def handle(obj: dict[str, Any]) -> str:
    return f"{obj['kind'].lower()}/{obj['metadata']['name']}"


WANTED = {handle(pair["want"]): pair["want"] for pair in RECORDED["objects"]}
PAIRS = [pytest.param(pair["want"], pair["live"], id=handle(pair["want"])) for pair in RECORDED["objects"]]
EDITS = {edit["name"]: edit for edit in RECORDED["edits"]}
FOUND = [name for name in EDITS if not name.startswith("beside")]
BESIDE = [name for name in EDITS if name.startswith("beside")]


def reasons(want: dict[str, Any], live: dict[str, Any] | None) -> list[str]:
    return difference(want, live, FIELD_MANAGER)


def recorded(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    pair = next(pair for pair in RECORDED["objects"] if handle(pair["want"]) == name)
    return copy.deepcopy(pair["want"]), copy.deepcopy(pair["live"])


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Paths of all scalars in an object."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path


def at(value: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


@pytest.mark.parametrize(("want", "live"), PAIRS)
def test_nothing_is_sent_after_an_apply(want: dict[str, Any], live: dict[str, Any]) -> None:
    """All kinds are clean after one apply, server defaults and respelt quantities included."""
    assert reasons(want, live) == []


def test_a_missing_object_is_applied() -> None:
    """There is nothing to compare with."""
    assert reasons(WANTED["secret/recorded-core"], None) == ["missing"]


def test_an_object_that_was_never_applied_by_us_is_applied() -> None:
    """Without an entry of ours nothing can be known about ownership."""
    want, live = recorded("configmap/recorded-core")
    live["metadata"]["managedFields"] = []
    assert reasons(want, live) == [f"never applied by {FIELD_MANAGER}"]


def test_the_status_entry_of_a_manager_is_not_its_apply() -> None:
    """An entry for a subresource under our name says nothing about the object itself."""
    _, live = recorded("configmap/recorded-core")
    for entry in live["metadata"]["managedFields"]:
        entry["subresource"] = "status"
    assert owned_fields(live, FIELD_MANAGER) is None


@pytest.mark.parametrize("name", FOUND)
def test_an_edit_of_a_field_that_we_own_is_found(name: str) -> None:
    """Every recorded edit by another manager gives a reason with a path."""
    edit = EDITS[name]
    assert reasons(WANTED[edit["object"]], edit["live"]) != []


@pytest.mark.parametrize("name", BESIDE)
def test_what_others_add_beside_our_fields_stays(name: str) -> None:
    """Server-side apply could not remove it, so it must not cause a write either (sidecars, rollout restart)."""
    edit = EDITS[name]
    assert reasons(WANTED[edit["object"]], edit["live"]) == []


@pytest.mark.parametrize(("want", "live"), PAIRS)
def test_every_wanted_scalar_is_compared(want: dict[str, Any], live: dict[str, Any]) -> None:
    """Whatever single value we want differently gives a reason, even where nobody took the ownership."""
    identity = {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}
    for path in leaves(want):
        if path in identity:
            continue
        changed = copy.deepcopy(want)
        value = at(want, path)
        new = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else f"{value}x"
        at(changed, path[:-1])[path[-1]] = new
        assert reasons(changed, live), path


@pytest.mark.parametrize(("want", "live"), PAIRS)
def test_every_field_that_we_no_longer_want_is_found(want: dict[str, Any], live: dict[str, Any]) -> None:
    """Leaving out any key of a map gives a reason: owned and not wanted must be dropped."""
    identity = {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}
    for path in leaves(want):
        # Inside an atomic value the server's defaults cannot be told from what we wanted once.
        if path in identity or _atomic(live, path):
            continue
        changed = copy.deepcopy(want)
        del at(changed, path[:-1])[path[-1]]
        assert reasons(changed, live), path


def _atomic(live: dict[str, Any], path: tuple[str | int, ...]) -> bool:
    fields: Any = owned_fields(live, FIELD_MANAGER)
    value: Any = live
    for step in path[:-1]:
        names = [key for key in fields if key != "."]
        if not names:
            return True
        if isinstance(step, int):
            fields = next(fields[key] for key in names if json.loads(key[2:]).items() <= value[step].items())
        else:
            fields = fields[f"f:{step}"]
        value = value[step]
    return not [key for key in fields if key != "."]


def test_quantities_are_compared_by_value_only_where_they_are_quantities() -> None:
    """`1024Mi` is `1Gi` under limits, but `1` is not `1.0` in a ConfigMap."""
    want, live = recorded("statefulset/recorded-cache")
    container = want["spec"]["template"]["spec"]["containers"][0]
    container["resources"]["limits"]["memory"] = "262144Ki"
    assert reasons(want, live) == []
    want, live = recorded("configmap/recorded-cache-config")
    want["data"]["redis.conf"] = "1"
    live["data"]["redis.conf"] = "1.0"
    assert reasons(want, live) == ["data.redis.conf: changed"]


def test_reasons_never_hold_a_value_of_a_secret() -> None:
    """They go into logs."""
    want, live = recorded("secret/recorded-core")
    live["data"]["password"] = "c2VjcmV0"
    (reason,) = reasons(want, live)
    assert reason == "data.password: changed"


def test_a_set_is_compared_item_by_item() -> None:
    """`v:` entries: an item that we own and no longer want, and one that we want and do not own."""
    live = {
        "metadata": {
            "finalizers": ["a", "b"],
            "managedFields": [
                {
                    "manager": FIELD_MANAGER,
                    "operation": "Apply",
                    "fieldsV1": {"f:metadata": {"f:finalizers": {'v:"a"': {}, 'v:"b"': {}}}},
                }
            ],
        }
    }
    assert reasons({"metadata": {"finalizers": ["b", "a"]}}, live) == []
    assert reasons({"metadata": {"finalizers": ["a", "c"]}}, live) == [
        'metadata.finalizers["b"]: no longer wanted',
        "metadata.finalizers[item]: not ours (new, or changed by another)",
    ]


def test_an_item_that_vanished_is_found_even_if_the_record_still_names_it() -> None:
    """The live list is looked at as well."""
    want, live = recorded("service/recorded-state")
    live["spec"]["ports"] = []
    assert reasons(want, live) == ['spec.ports[{"port":6379,"protocol":"TCP"}]: missing']


def test_a_boolean_is_not_a_number() -> None:
    """`True == 1` in Python, but not in Kubernetes."""
    want, live = recorded("statefulset/recorded-state")
    want["spec"]["replicas"] = True
    assert reasons(want, live) == ["spec.replicas: changed"]
