"""Beside other managers: what the operator writes into a CachePolicy, and what others may write into its objects."""

from __future__ import annotations

import time

from tests.cluster.core import Core
from tests.cluster.kube import FIELD_MANAGER, as_input, wait_for
from tests.cluster.policy import Policy

from cachepolicy import names

OTHER = "gitops-tool"
MARK = "example.com/watched"
#: Looks of the operator after a change take a second; a fight would show well within this.
QUIET_SECONDS = 5.0


def test_the_operator_writes_nothing_of_a_policy_but_its_status(policy: Policy, core: Core) -> None:
    """Spec, labels, annotations and finalizers belong to whoever applied it."""
    found = policy.object["metadata"]
    entries = {(entry["manager"], entry.get("subresource", "")): entry for entry in found["managedFields"]}
    assert set(entries) == {(FIELD_MANAGER, ""), (names.FIELD_MANAGER, "status")}
    assert set(entries[names.FIELD_MANAGER, "status"]["fieldsV1"]) == {"f:status"}
    assert not {"finalizers", "annotations", "labels"} & set(found)


def test_what_a_second_manager_adds_to_our_objects_stays_without_a_fight(policy: Policy, core: Core) -> None:
    """Server-side apply by two managers of different fields: nobody takes anything back."""
    for item in policy.owned():
        if item["kind"] in ("Service", "ConfigMap", "StatefulSet"):
            add_mark(policy, item["kind"], str(item.get("apiVersion", "")), item["metadata"]["name"])
    marked = policy.versions()
    since = time.monotonic()
    wait_for("a fight to show", lambda: time.monotonic() - since > QUIET_SECONDS, timeout=30, every=1)
    assert policy.versions() == marked
    for item in policy.owned():
        if item["kind"] in ("Service", "ConfigMap", "StatefulSet"):
            assert item["metadata"]["annotations"][MARK] == "yes", item["metadata"]["name"]
            managers = {entry["manager"] for entry in item["metadata"]["managedFields"]}
            assert {OTHER, names.FIELD_MANAGER} <= managers
    assert policy.condition("Ready") == ("True", "Ready")


def add_mark(policy: Policy, kind: str, api_version: str, name: str) -> None:
    metadata = {"name": name, "namespace": policy.namespace, "annotations": {MARK: "yes"}}
    version = api_version or ("apps/v1" if kind == "StatefulSet" else "v1")
    policy.cluster.kubectl(
        "apply",
        "--server-side",
        f"--field-manager={OTHER}",
        "-f",
        "-",
        data=as_input([{"apiVersion": version, "kind": kind, "metadata": metadata}]),
    )
