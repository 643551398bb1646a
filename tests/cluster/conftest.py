"""Fixtures of the cluster tests. They make namespaces of their own and take away what they made."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster.core import Core
from tests.cluster.installation import Operator, core_objects, core_spec, installed_operator, rendered
from tests.cluster.kube import RESTRICTED, Cluster, Object, connected, wait_for
from tests.cluster.policy import Policy

from cachepolicy import crd, names

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pods start within seconds, not milliseconds: a longer limit than for unit tests."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(240))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the cluster as it was."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(cluster, Cluster) and "admission" not in item.nodeid:
        report.sections.append(("cluster", cluster.report()))
    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that KUBECONFIG names, through the kubectl on PATH or the one that KUBECTL names."""
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("set KUBECONFIG to the cluster to test on: the tests create and delete things there")
    with connected(shlex.split(os.environ.get("KUBECTL") or "kubectl")) as connection:
        yield connection


@pytest.fixture(scope="session")
def definition(cluster: Cluster) -> Iterator[None]:
    """The CRD of this checkout. It stays when it was there before: deleting it deletes every CachePolicy."""
    name = f"{names.PLURAL}.{names.GROUP}"
    before = cluster.get("CustomResourceDefinition", "", name)
    cluster.apply(crd.custom_resource_definition())
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
    yield
    if before is None:
        cluster.delete("CustomResourceDefinition", "", name)


@pytest.fixture(scope="session")
def new_namespace(cluster: Cluster) -> Iterator[Callable[[str], str]]:
    """Makes namespaces that enforce the Pod Security Standard ``restricted``; all go at the end."""
    made: list[str] = []

    def make(purpose: str) -> str:
        name = f"cachepolicy-test-{purpose}-{secrets.token_hex(2)}"
        cluster.create("Namespace", {"metadata": {"name": name, "labels": RESTRICTED}})
        # Pods are refused until the namespace's service account is there.
        wait_for(
            f"the service account of {name}",
            lambda: cluster.http.get(f"/api/v1/namespaces/{name}/serviceaccounts/default").is_success,
            timeout=20,
        )
        made.append(name)
        return name

    yield make
    for name in made:
        cluster.delete("Namespace", "", name)


@pytest.fixture
def namespace(
    cluster: Cluster, new_namespace: Callable[[str], str], request: pytest.FixtureRequest
) -> Iterator[str]:
    """A namespace for one test, deleted after it."""
    name = new_namespace("case")
    cluster.namespaces.add(name)
    yield name
    cluster.namespaces.discard(name)
    cluster.delete("Namespace", "", name)


# ----------------------------------------------------------------- one policy and one Core for most of the tests


@pytest.fixture(scope="session")
def manifests(cluster: Cluster) -> list[Object]:
    """The objects of manifests/overlays/kind."""
    return rendered(cluster)


@pytest.fixture(scope="session")
def operator(cluster: Cluster, definition: None, manifests: list[Object]) -> Iterator[Operator]:
    """The operator, running."""
    with installed_operator(cluster, manifests) as running:
        yield running


@dataclass(frozen=True)
class Alone:
    """A policy as it was before there was any Core: its conditions and what kubectl printed."""

    policy: Policy
    conditions: dict[str, Object]
    printed: str


@pytest.fixture(scope="session")
def alone(cluster: Cluster, operator: Operator, new_namespace: Callable[[str], str]) -> Alone:
    """The sample policy, Ready, in a namespace without Core."""
    namespace = new_namespace("core")
    cluster.namespaces.add(namespace)
    policy = Policy(cluster, namespace)
    policy.apply(core_spec())
    policy.wait_ready()
    printed = cluster.kubectl("get", "cpol", "-n", namespace)
    return Alone(policy, policy.conditions(), printed)


@pytest.fixture(scope="session")
def core(cluster: Cluster, alone: Alone, manifests: list[Object]) -> Iterator[Core]:
    """Two replicas of the reference Core and the stand-in provider, beside the policy."""
    namespace = alone.policy.namespace
    cluster.apply(*core_objects(manifests, namespace))
    with ExitStack() as forwards:
        running = Core(cluster, namespace, forwards)
        wait_for("two ready pods of Core", lambda: len(running.pods()) == 2, timeout=120)
        wait_for(
            "the stand-in provider",
            lambda: cluster.need("Deployment", namespace, "standin")["status"].get("readyReplicas"),
            timeout=60,
        )
        alone.policy.wait_enforced()
        yield running


@pytest.fixture
def policy(alone: Alone, core: Core) -> Policy:
    """The shared policy, as the sample has it, enforced by both replicas."""
    alone.policy.apply(core_spec())
    alone.policy.wait_ready()
    alone.policy.wait_enforced()
    return alone.policy
