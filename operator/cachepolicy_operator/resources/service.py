"""The two Services of a server: one for clients, one that gives pods their names."""

from __future__ import annotations

from typing import Any

from cachepolicy import names
from cachepolicy.names import Role
from cachepolicy_operator.resources.inputs import RenderInputs
from cachepolicy_operator.resources.labels import selector
from cachepolicy_operator.resources.metadata import metadata


def server_host(namespace: str, policy: str, role: Role) -> str:
    """Name under which clients in the cluster find a server, without assuming the cluster's domain."""
    return f"{names.server(policy, role)}.{namespace}.svc"


def endpoint_url(namespace: str, policy: str, role: Role) -> str:
    """URL of a server for the policy document; it holds no credential."""
    return f"redis://{server_host(namespace, policy, role)}:{names.REDIS_PORT}"


def client_service(inputs: RenderInputs, role: Role) -> dict[str, Any]:
    """ClusterIP Service for clients: ready pods only."""
    spec = {"publishNotReadyAddresses": False, "internalTrafficPolicy": "Cluster"}
    return _service(inputs, names.server(inputs.name, role), role, spec)


def headless_service(inputs: RenderInputs, role: Role) -> dict[str, Any]:
    """Headless Service for the identity of pods, which they have before they are ready (rule 21)."""
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True}
    return _service(inputs, names.headless_service(inputs.name, role), role, spec)


def _service(inputs: RenderInputs, name: str, role: Role, spec: dict[str, Any]) -> dict[str, Any]:
    port = {"name": "redis", "port": names.REDIS_PORT, "protocol": "TCP", "targetPort": "redis"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(inputs, name, str(role)),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(inputs.name, role),
            "ports": [port],
            # Owned although empty: an address added here would let traffic in from outside the cluster.
            "externalIPs": [],
            "sessionAffinity": "None",
            **spec,
        },
    }
