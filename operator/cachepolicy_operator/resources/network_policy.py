"""The NetworkPolicy of a policy's Redis pods: who may connect to them (rule 12)."""

from __future__ import annotations

from typing import Any, Final

from cachepolicy import names
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.resources.inputs import RenderInputs
from cachepolicy_operator.resources.labels import APPLICATION, consumers
from cachepolicy_operator.resources.metadata import metadata

#: Labels of the operator's own pods; manifests/base gives them, and a test compares.
OPERATOR_LABELS: Final = {
    names.LABEL_NAME: "cachepolicy-operator",
    names.LABEL_COMPONENT: "operator",
}


def wanted(spec: CachePolicySpec, operator_namespace: str | None) -> bool:
    """Not where the operator runs outside the cluster: no rule could let it in."""
    return spec.redis.managed.network_policy.enabled and operator_namespace is not None


def network_policy(inputs: RenderInputs) -> dict[str, Any]:
    """Core, the operator and ``extraFrom`` reach the Redis port; Redis itself connects to nobody.

    The kubelet's probes run inside the container, so no rule is needed for them.
    """
    extra = [dict(peer) for peer in inputs.spec.redis.managed.network_policy.extra_from]
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": inputs.operator_namespace}},
        "podSelector": {"matchLabels": OPERATOR_LABELS},
    }
    rule = {
        "from": [{"podSelector": {"matchLabels": consumers(inputs.name, inputs.spec)}}, operator, *extra],
        "ports": [{"port": names.REDIS_PORT, "protocol": "TCP"}],
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(inputs, names.network_policy(inputs.name), APPLICATION),
        "spec": {
            "podSelector": {"matchLabels": {names.LABEL_OWNER: inputs.name, names.LABEL_NAME: APPLICATION}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [rule],
            "egress": [],
        },
    }
