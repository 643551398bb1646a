"""Where the pods of Redis run, what they are marked with, and what pulls their images."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from cachepolicy import names
from cachepolicy.schema import ApiModel, cel, cel_rules

#: Keys of labels and annotations that others own: ours, and those that Kubernetes sets on pods of a StatefulSet.
RESERVED_PREFIXES = (f"{names.GROUP}/", "statefulset.kubernetes.io/", "apps.kubernetes.io/")
RESERVED_LABELS = (
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
    "app.kubernetes.io/managed-by",
    "controller-revision-hash",
)

_RESERVED = (
    f"one of these keys belongs to the operator or to Kubernetes: {', '.join(RESERVED_LABELS)}, "
    f"{', '.join(f'{prefix}*' for prefix in RESERVED_PREFIXES)}"
)
_NOT_RESERVED = cel(
    f"self.all(k, !(k in {list(RESERVED_LABELS)}) && !{list(RESERVED_PREFIXES)}.exists(p, k.startsWith(p)))",
    _RESERVED,
)

LabelKey = Annotated[str, StringConstraints(max_length=317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
AnnotationValue = Annotated[str, StringConstraints(max_length=4096)]
#: A structure of core/v1, kept as it is written: the API server checks it in the StatefulSet.
Opaque = dict[str, Any]


def reserved(key: str) -> bool:
    """Whether a label or annotation of this key is not the user's to set."""
    return key in RESERVED_LABELS or key.startswith(RESERVED_PREFIXES)


class PodMetadata(ApiModel):
    """Labels and annotations beside the operator's. Changing them replaces the pods, one by one."""

    labels: Annotated[
        dict[LabelKey, LabelValue], Field(max_length=32, json_schema_extra=cel_rules(_NOT_RESERVED))
    ] = Field(default={}, description="Labels of the Redis pods, beside the operator's own.")
    annotations: Annotated[
        dict[LabelKey, AnnotationValue], Field(max_length=32, json_schema_extra=cel_rules(_NOT_RESERVED))
    ] = Field(default={}, description="Annotations of the Redis pods, beside the operator's own.")

    @field_validator("labels", "annotations")
    @classmethod
    def _own_keys(cls, value: dict[str, str]) -> dict[str, str]:
        if any(map(reserved, value)):
            raise ValueError(_RESERVED)
        return value


class Scheduling(ApiModel):
    """Which nodes the Redis pods run on, as in core/v1. A change replaces the pods."""

    node_selector: dict[LabelKey, LabelValue] = Field(
        default={}, max_length=16, description="Labels that a node must have."
    )
    affinity: Opaque | None = Field(
        default=None, description="Node and pod affinity, as in the spec of a pod (core/v1 Affinity)."
    )
    tolerations: tuple[Opaque, ...] = Field(
        default=(), max_length=16, description="Taints that the pods tolerate (core/v1 Toleration)."
    )
    topology_spread_constraints: tuple[Opaque, ...] = Field(
        default=(),
        max_length=8,
        description="How pods spread over zones and nodes (core/v1 TopologySpreadConstraint).",
    )
    priority_class_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="PriorityClass of the pods; the cluster's default when absent.",
    )


class NetworkPolicy(ApiModel):
    """Who may connect to the Redis pods."""

    enabled: bool = Field(
        default=True,
        description="Only Core, the operator and extraFrom reach Redis, and Redis reaches nobody. Default true.",
    )
    extra_from: tuple[Opaque, ...] = Field(
        default=(),
        max_length=16,
        description="Who else may connect (networking/v1 NetworkPolicyPeer), for example a backup job.",
    )


class ImagePullSecret(ApiModel):
    """A Secret of type kubernetes.io/dockerconfigjson in the policy's namespace."""

    name: str = Field(min_length=1, max_length=253, description="Name of the Secret.")
