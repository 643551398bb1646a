"""`metadata` of every object that the builders make."""

from __future__ import annotations

from typing import Any

from cachepolicy_operator.resources.inputs import RenderInputs
from cachepolicy_operator.resources.labels import object_labels, owner_reference


def metadata(inputs: RenderInputs, name: str, component: str) -> dict[str, Any]:
    """Name, labels and the CachePolicy as controller; no annotations, and nothing copied from the CachePolicy."""
    return {
        "name": name,
        "namespace": inputs.namespace,
        "labels": object_labels(inputs.name, component),
        "ownerReferences": [owner_reference(inputs.name, inputs.uid)],
    }
