"""Fixtures of the cluster tests. They make namespaces of their own and take away what they made."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from tests.cluster.kube import RESTRICTED, Cluster, connected, wait_for

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
