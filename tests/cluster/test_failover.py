"""Two operators: one acts, and the other takes over when it is killed, stopped or asked to end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
from tests.cluster.installation import OPERATOR, SYSTEM, Operator
from tests.cluster.kube import Cluster, wait_for
from tests.cluster.policy import Policy
from tests.policies import Spec

from cachepolicy import names
from cachepolicy_operator import lease

MINIMAL: Spec = {"redis": {"managed": {}}, "embeddingCache": {}}


@pytest.fixture(scope="module")
def pair(operator: Operator) -> Iterator[Operator]:
    """Two operators; afterwards there is one again."""
    operator.scale(2)
    yield operator
    operator.scale(1)


@pytest.fixture(scope="module")
def policy(cluster: Cluster, pair: Operator, new_namespace: Callable[[str], str]) -> Iterator[Policy]:
    namespace = new_namespace("failover")
    found = Policy(cluster, namespace, "kept")
    found.apply(MINIMAL)
    found.wait_ready()
    yield found
    cluster.delete("Namespace", "", namespace)


def holder(cluster: Cluster) -> str:
    """Name of the pod that holds the Lease."""
    found = cluster.need("Lease", SYSTEM, lease.NAME)
    return str(found["spec"].get("holderIdentity") or "")


def break_something(policy: Policy) -> None:
    name = names.core_config_map(policy.name)
    policy.cluster.merge("ConfigMap", policy.namespace, name, {"data": {names.FILE_POLICY: "{}"}})


def repaired(policy: Policy) -> bool:
    return bool(policy.document.get("revision"))


def test_one_of_two_acts_and_the_other_waits(cluster: Cluster, pair: Operator, policy: Policy) -> None:
    pods = {pod["metadata"]["name"] for pod in pair.pods()}
    assert len(pods) == 2
    acting = holder(cluster)
    assert acting in pods
    (waiting,) = pods - {acting}
    told = cluster.kubectl("logs", "-n", SYSTEM, waiting)
    assert f"held by {acting}" in told
    assert not re.search(r"apply (StatefulSet|ConfigMap|Secret)", told), "it watches, and writes nothing"


def test_a_killed_operator_is_followed_within_fifteen_seconds(
    cluster: Cluster, pair: Operator, policy: Policy
) -> None:
    acting = holder(cluster)
    before = policy.lives()
    cluster.delete("Pod", SYSTEM, acting, grace=0)
    killed = time.monotonic()
    wait_for("another holder", lambda: holder(cluster) not in ("", acting), timeout=25)
    taken = time.monotonic() - killed
    break_something(policy)
    wait_for("the other one to repair it", lambda: repaired(policy), timeout=5)
    # The Lease runs for 10 s from when the other one has seen its last renewal, and is looked at every 1.5 s.
    assert taken <= 15, f"{taken:.1f} s"
    assert policy.lives() == before, "Redis never noticed"
    pair.wait()


def test_an_operator_that_ends_in_order_hands_over_at_once(
    cluster: Cluster, pair: Operator, policy: Policy
) -> None:
    acting = holder(cluster)
    cluster.kubectl("delete", "pod", "-n", SYSTEM, acting, "--wait=false")
    asked = time.monotonic()
    wait_for("another holder", lambda: holder(cluster) not in ("", acting), timeout=20)
    assert time.monotonic() - asked < lease.DURATION, "without waiting for the Lease to run out"
    break_something(policy)
    wait_for("the repair", lambda: repaired(policy), timeout=5)
    cluster.kubectl(
        *("rollout", "status", "-n", SYSTEM, f"deployment/{OPERATOR}", "--timeout=60s"), timeout=70
    )
