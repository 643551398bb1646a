"""Beside GitOps tools: other managers of the same objects, whose fields are whose, a new CRD, the order of deletion."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator

import pytest
from tests.cluster.installation import MANIFESTS, Operator, sample
from tests.cluster.kube import FIELD_MANAGER, Cluster, Object, as_input, wait_for
from tests.cluster.policy import OWNED_KINDS, Policy

from cachepolicy import crd, names

STATE_ONLY, MINIMAL = sample("state-only"), sample("minimal")
OTHER = "other-tool"
#: Two looks of the operator at its Redis servers, each of which may find something to do.
TWO_LOOKS = 7.0
MARK = {"example.com/team": "platform"}
API_VERSIONS = {"StatefulSet": "apps/v1", "NetworkPolicy": "networking.k8s.io/v1"}


@pytest.fixture(scope="module")
def shared(cluster: Cluster, operator: Operator, new_namespace: Callable[[str], str]) -> Iterator[Policy]:
    """A ready policy with a state server and no Core."""
    namespace = new_namespace("gitops")
    cluster.namespaces.add(namespace)
    policy = Policy(cluster, namespace, "shared")
    policy.apply(STATE_ONLY)
    policy.wait_ready()
    yield policy
    cluster.namespaces.discard(namespace)
    cluster.delete("Namespace", "", namespace)


def marked(item: Object) -> Object:
    """What another tool applies: a label and an annotation of its own on one of our objects."""
    metadata = {key: item["metadata"][key] for key in ("name", "namespace")}
    return {
        "apiVersion": API_VERSIONS.get(item["kind"], "v1"),
        "kind": item["kind"],
        "metadata": metadata | {"labels": MARK, "annotations": MARK},
    }


def managers(item: Object) -> set[str]:
    return {entry["manager"] for entry in item["metadata"]["managedFields"]}


def rest(seconds: float) -> None:
    """Let the operator look as often as it wants."""
    since = time.monotonic()
    wait_for("the looks", lambda: time.monotonic() - since > seconds, timeout=seconds + 5, every=0.5)


def test_what_a_second_manager_adds_to_our_objects_stays_without_a_fight(shared: Policy) -> None:
    """Applied without force: no field of ours is in its way, and nobody writes afterwards."""
    theirs = [marked(item) for item in shared.owned()]
    assert {item["kind"] for item in theirs} == set(OWNED_KINDS)
    apply = ("apply", "--server-side", f"--field-manager={OTHER}", "-f", "-")
    shared.cluster.kubectl(*apply, data=as_input(theirs))
    before = shared.versions()
    rest(TWO_LOOKS)
    assert shared.versions() == before, "somebody wrote"

    # Also not where the operator writes the same objects for a reason of its own.
    changed = copy.deepcopy(STATE_ONLY)
    changed["rateLimits"]["per-user"]["rates"][0]["limit"] += 1
    changed["redis"]["managed"]["state"]["config"] = {"maxclients": "2000"}
    shared.apply(changed)
    shared.wait_ready()
    for item in shared.owned():
        metadata = item["metadata"]
        assert metadata["labels"].items() >= MARK.items(), metadata["name"]
        assert metadata["annotations"].items() >= MARK.items(), metadata["name"]
        assert managers(item) >= {OTHER, names.FIELD_MANAGER}
    # And the tool, which applies again and again, changes nothing.
    before = shared.versions()
    shared.cluster.kubectl(*apply, data=as_input(theirs))
    assert shared.versions() == before


def test_the_operator_writes_nothing_of_a_policy_but_its_status(shared: Policy) -> None:
    """By managedFields: spec, labels, annotations and finalizers are those of whoever applied it."""
    found = shared.object
    entries = found["metadata"]["managedFields"]
    ours = [entry for entry in entries if entry["manager"] != FIELD_MANAGER]
    assert ours
    assert all(entry.get("subresource") == "status" for entry in ours), ours
    assert all(set(entry["fieldsV1"]) == {"f:status"} for entry in ours), ours
    assert not {"labels", "annotations", "finalizers"} & set(found["metadata"])


def test_argo_cds_config_map_takes_the_patch_and_keeps_the_rest(cluster: Cluster, shared: Policy) -> None:
    metadata = {"name": "argocd-cm", "namespace": shared.namespace}
    cluster.create("ConfigMap", {"metadata": metadata, "data": {"url": "https://argocd.example.com"}})
    patch = (MANIFESTS / "gitops" / "argocd" / "argocd-cm.yaml").read_text()
    cluster.kubectl(
        *("apply", "--server-side", "--field-manager=cachepolicy-health", "-f", "-"),
        data=patch.replace("namespace: argocd", f"namespace: {shared.namespace}"),
    )
    data = cluster.need("ConfigMap", shared.namespace, "argocd-cm")["data"]
    assert data["url"] == "https://argocd.example.com"
    assert f"resource.customizations.health.{names.GROUP}_{names.KIND}" in data


def test_a_crd_that_is_applied_again_keeps_every_policy_and_its_redis(
    cluster: Cluster, shared: Policy
) -> None:
    """Also a newer one with one more field, and the old one after it."""
    before, lives = shared.object, shared.lives()
    newer = copy.deepcopy(crd.custom_resource_definition())
    (version,) = newer["spec"]["versions"]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["later"] = {"type": "string"}
    try:
        cluster.apply(newer)
        kept = shared.object
        assert kept["metadata"]["uid"] == before["metadata"]["uid"]
        assert kept["spec"] == before["spec"]
    finally:
        cluster.apply(crd.custom_resource_definition())
    assert shared.object["metadata"]["uid"] == before["metadata"]["uid"]
    # The operator, whose watches the API server ended meanwhile, follows as before.
    shared.apply(STATE_ONLY)
    shared.wait_ready()
    assert shared.lives() == lives


def test_policy_and_operator_go_in_any_order_and_nothing_comes_back(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    """Without a finalizer nothing waits for an operator that was deleted first."""
    first, second = (Policy(cluster, namespace, name) for name in ("first", "second"))
    for policy in (first, second):
        policy.apply(MINIMAL)
    for policy in (first, second):
        policy.wait_ready()
    first.delete()
    with operator.away():
        second.delete()
        wait_for("everything of both to go", lambda: gone(first) and gone(second), timeout=60)
    rest(3.0)
    assert gone(first)
    assert gone(second)


def gone(policy: Policy) -> bool:
    left = [f"{item['kind']} {item['metadata']['name']}" for item in policy.owned()]
    pods = [pod["metadata"]["name"] for pod in policy.redis_pods()]
    there = policy.cluster.get("CachePolicy", policy.namespace, policy.name)
    assert (left, pods, there) == ([], [], None)
    return True
