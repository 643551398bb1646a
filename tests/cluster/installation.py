"""What ``manifests/overlays/kind`` installs: the operator where the overlay says, Core in a namespace of the tests."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from tests.cluster.kube import Cluster, Object, as_input, wait_for
from tests.policies import Spec

MANIFESTS: Final = Path(__file__).parents[2] / "manifests"
SYSTEM: Final = "cachepolicy-system"
OPERATOR: Final = "cachepolicy-operator"
SAMPLE_NAMESPACE: Final = "masterclaw"


def redis_images() -> tuple[str, ...]:
    """Redis images to test with, the operator's default first; empty for the one of the manifests.

    ``CACHEPOLICY_TEST_REDIS_IMAGES`` names them, with spaces between, where a cluster cannot pull the usual one.
    """
    return tuple(os.environ.get("CACHEPOLICY_TEST_REDIS_IMAGES", "").split())


def rendered(cluster: Cluster) -> list[Object]:
    """The overlay's objects."""
    text = cluster.kubectl("kustomize", str(MANIFESTS / "overlays" / "kind"))
    return [item for item in yaml.safe_load_all(text) if item]


def sample(name: str) -> Spec:
    """The spec of one of the samples that people apply."""
    content = yaml.safe_load((MANIFESTS / "samples" / f"{name}.yaml").read_text())
    return dict(content["spec"])


def core_spec() -> Spec:
    """The complete sample, with limits that the tests' own requests do not meet."""
    spec = sample("core")
    for limit in spec["rateLimits"].values():
        for bound in limit.get("rates", [limit]):
            bound["limit"] *= 100  # an exact log remembers at most 10,000 requests
    return spec


@dataclass(frozen=True)
class Operator:
    """The operator's Deployment."""

    cluster: Cluster

    def set_env(self, values: Mapping[str, str]) -> None:
        """Set variables ("" removes one) and wait for the pod that has them."""
        changes = [f"{key}={value}" if value else f"{key}-" for key, value in values.items()]
        self.cluster.kubectl("set", "env", "-n", SYSTEM, f"deployment/{OPERATOR}", *changes)
        self.wait()

    def scale(self, replicas: int) -> None:
        """Start or stop it, and wait until it is so."""
        self.cluster.merge("Deployment", SYSTEM, OPERATOR, {"spec": {"replicas": replicas}})
        if replicas:
            self.wait()
        else:
            wait_for("the operator to be gone", lambda: not self.pods(), timeout=45)

    @contextmanager
    def away(self) -> Iterator[None]:
        """No operator until the end of the block; then there is one again, whatever happened."""
        try:
            self.scale(0)
            yield
        finally:
            self.scale(1)

    def kill(self) -> None:
        """SIGKILL and no time to finish anything."""
        for pod in self.pods():
            self.cluster.delete("Pod", SYSTEM, pod["metadata"]["name"], grace=0)

    def wait(self) -> None:
        self.cluster.kubectl(
            *("rollout", "status", "-n", SYSTEM, f"deployment/{OPERATOR}", "--timeout=120s"), timeout=130
        )

    def pods(self) -> list[Object]:
        return list(self.cluster.list("Pod", SYSTEM, f"app.kubernetes.io/name={OPERATOR}"))

    def logs(self) -> str:
        return self.cluster.logs(SYSTEM, f"app.kubernetes.io/name={OPERATOR}")


@contextmanager
def installed_operator(cluster: Cluster, objects: Sequence[Object]) -> Iterator[Operator]:
    """The operator from the overlay's objects; afterwards what was there before is as the overlay has it."""
    system = [item for item in objects if not _of_sample(item) and item["kind"] != "CustomResourceDefinition"]
    before = cluster.kubectl("get", "-f", "-", "--ignore-not-found", "-o", "name", data=as_input(system))
    environment = dict(zip(("CACHEPOLICY_REDIS_IMAGE",), redis_images(), strict=False))
    cluster.apply(*(_with_environment(item, environment) for item in system))
    operator = Operator(cluster)
    try:
        operator.wait()
        yield operator
    finally:
        if f"deployment.apps/{OPERATOR}" in before.split():
            cluster.apply(*system)
        else:
            cluster.kubectl(
                *("delete", "--ignore-not-found", "--wait=false", "-f", "-"), data=as_input(system)
            )


def core_objects(objects: Sequence[Object], namespace: str) -> list[Object]:
    """Core and its stand-in provider, moved to ``namespace``."""
    moved = []
    for item in copy.deepcopy([item for item in objects if _of_sample(item) and item["kind"] != "Namespace"]):
        item["metadata"]["namespace"] = namespace
        moved.append(item)
    return moved


def _of_sample(item: Object) -> bool:
    metadata = item["metadata"]
    return SAMPLE_NAMESPACE in (metadata.get("namespace"), metadata["name"])


def _with_environment(item: Object, values: Mapping[str, str]) -> Object:
    if (item["kind"], item["metadata"]["name"]) != ("Deployment", OPERATOR):
        return item
    changed = copy.deepcopy(item)
    environment = changed["spec"]["template"]["spec"]["containers"][0].setdefault("env", [])
    kept = [entry for entry in environment if entry["name"] not in values]
    added = [{"name": name, "value": value} for name, value in values.items()]
    changed["spec"]["template"]["spec"]["containers"][0]["env"] = [*kept, *added]
    return changed
