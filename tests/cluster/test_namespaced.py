"""The operator with rights in one namespace alone, as ``manifests/overlays/namespaced`` installs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import yaml
from tests.cluster.installation import MANIFESTS, OPERATOR, Operator, redis_images
from tests.cluster.kube import Cluster, Object, as_input, wait_for
from tests.cluster.policy import Policy
from tests.policies import Spec

from cachepolicy import names

SPEC: Spec = {"redis": {"managed": {}}, "embeddingCache": {}}


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, operator: Operator, new_namespace: Callable[[str], str]) -> Iterator[str]:
    """A namespace with an operator of its own, while the one of the whole cluster is away."""
    name = new_namespace("alone")
    with operator.away(), installed(cluster, name):
        yield name


@contextmanager
def installed(cluster: Cluster, namespace: str) -> Iterator[None]:
    text = cluster.kubectl("kustomize", str(MANIFESTS / "overlays" / "namespaced"))
    text = text.replace("masterclaw\n", f"{namespace}\n").replace(":0.1.0", ":dev")
    objects: list[Object] = [item for item in yaml.safe_load_all(text) if item]
    for image in redis_images()[:1]:
        for item in objects:
            if item["kind"] == "Deployment":
                environment = item["spec"]["template"]["spec"]["containers"][0]["env"]
                for variable in environment:
                    if variable["name"] == "CACHEPOLICY_REDIS_IMAGE":
                        variable["value"] = image
    cluster.apply(*objects)
    try:
        cluster.kubectl(
            *("rollout", "status", "-n", namespace, f"deployment/{OPERATOR}", "--timeout=60s"), timeout=70
        )
        yield
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", data=as_input(objects))


def test_a_policy_becomes_ready_and_is_repaired(cluster: Cluster, namespace: str) -> None:
    policy = Policy(cluster, namespace, "small")
    policy.apply(SPEC)
    policy.wait_ready()
    config = names.core_config_map(policy.name)
    cluster.merge("ConfigMap", namespace, config, {"data": {names.FILE_POLICY: "{}"}})
    wait_for("the repair", lambda: bool(policy.document.get("revision")), timeout=10)
    wall = cluster.need("NetworkPolicy", namespace, names.network_policy(policy.name))
    selectors = [
        peer.get("namespaceSelector", {}).get("matchLabels", {})
        for peer in wall["spec"]["ingress"][0]["from"]
    ]
    assert {"kubernetes.io/metadata.name": namespace} in selectors, "its own operator is let in"


def test_other_namespaces_are_not_its_own(
    cluster: Cluster, namespace: str, new_namespace: Callable[[str], str]
) -> None:
    elsewhere = Policy(cluster, new_namespace("elsewhere"), "small")
    elsewhere.apply(SPEC)
    account = f"system:serviceaccount:{namespace}:{OPERATOR}"
    for verb, kind in (("list", "cachepolicies"), ("create", "statefulsets"), ("get", "secrets")):
        asked = ["auth", "can-i", verb, kind, f"--as={account}"]
        assert cluster.kubectl(*asked, "-n", namespace).strip() == "yes"
        cluster.refusal(*asked, "-n", elsewhere.namespace)
    assert not elsewhere.owned()
    elsewhere.delete()
