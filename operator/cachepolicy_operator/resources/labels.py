"""Labels, selectors and owner references: what makes an object ours."""

from __future__ import annotations

from typing import Any, Final

from cachepolicy import names
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec

COMPONENT_CORE: Final = "core"
APPLICATION: Final = "cachepolicy"


def object_labels(policy: str, component: str) -> dict[str, str]:
    """Labels of an object of the CachePolicy `policy`; the CachePolicy's own labels are never copied (rule 19).

    `names.LABEL_POLICY` is not among them: it marks consumers, and Redis pods must not count as Core.
    """
    return {
        names.LABEL_NAME: APPLICATION,
        names.LABEL_INSTANCE: policy,
        names.LABEL_COMPONENT: component,
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
        names.LABEL_OWNER: policy,
    }


def selector(policy: str, role: Role) -> dict[str, str]:
    """Labels by which Services and the StatefulSet find the pods of a server. They never change (rule 19)."""
    return {names.LABEL_OWNER: policy, names.LABEL_COMPONENT: str(role)}


def consumers(policy: str, spec: CachePolicySpec) -> dict[str, str]:
    """Labels of the pods of Core, whose acknowledgements count and whom Redis lets in."""
    if spec.core.pod_selector is not None:
        return dict(spec.core.pod_selector.match_labels)
    return {names.LABEL_POLICY: policy}


def owned_selector() -> str:
    """Label selector string for everything that this operator made, in all policies."""
    return f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"


def policy_selector(policy: str) -> str:
    """Label selector string for everything that this operator made for one policy (within its namespace)."""
    return f"{owned_selector()},{names.LABEL_OWNER}={policy}"


def owner_reference(policy: str, uid: str) -> dict[str, Any]:
    """The CachePolicy as controller.

    Without `blockOwnerDeletion`: nothing of ours has to be gone before the policy may go, and clusters that enforce
    permissions on it would want `update` on the policy's finalizers.
    """
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": policy,
        "uid": uid,
        "controller": True,
    }
