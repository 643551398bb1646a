"""Whose an object is: only what is ours may be changed or deleted."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from cachepolicy import names


class Owner(Enum):
    """What we may do with an object that has a name of ours."""

    OURS = auto()
    """Made for this CachePolicy, or orphaned with our labels: applied again."""
    PREVIOUS = auto()
    """Made for a CachePolicy of this name that is gone: the garbage collector takes it, we wait."""
    FOREIGN = auto()
    """Somebody else's: never touched."""


def owner_of(obj: Mapping[str, Any], policy: str, uid: str) -> Owner:
    """Whose ``obj`` is, seen from the CachePolicy ``policy`` with ``uid``."""
    controller = controller_of(obj)
    if controller is None:
        return Owner.OURS if _labelled(obj, policy) else Owner.FOREIGN
    group = str(controller.get("apiVersion", "")).partition("/")[0]
    if (group, controller.get("kind"), controller.get("name")) != (names.GROUP, names.KIND, policy):
        return Owner.FOREIGN
    return Owner.OURS if controller.get("uid") == uid else Owner.PREVIOUS


def controlled_by(obj: Mapping[str, Any], uid: str) -> bool:
    """Whether the owner with ``uid`` is the controller: what may be pruned."""
    controller = controller_of(obj)
    return controller is not None and controller.get("uid") == uid


def controller_of(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The owner reference that is the controller."""
    for reference in obj.get("metadata", {}).get("ownerReferences") or ():
        if reference.get("controller"):
            found: Mapping[str, Any] = reference
            return found
    return None


def _labelled(obj: Mapping[str, Any], policy: str) -> bool:
    labels = obj.get("metadata", {}).get("labels") or {}
    return (
        labels.get(names.LABEL_MANAGED_BY) == names.FIELD_MANAGER and labels.get(names.LABEL_OWNER) == policy
    )
