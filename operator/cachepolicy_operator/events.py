"""Events: what a person reads under `kubectl describe`, within the limits of events.k8s.io/v1."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from cachepolicy import names
from cachepolicy_operator.kinds import EVENT

EventType = Literal["Normal", "Warning"]


def event(
    regarding: Mapping[str, Any],
    *,
    kind: EventType,
    reason: str,
    action: str,
    note: str,
    now: datetime,
    instance: str,
) -> dict[str, Any]:
    """An events.k8s.io/v1 Event cut to the API's limits: note 1 KiB, reason, action and instance 128 characters."""
    metadata = regarding["metadata"]
    stamp = format(int(now.timestamp() * 1_000_000), "x")
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.name,
        "metadata": {"name": f"{metadata['name']}.{stamp}", "namespace": metadata["namespace"]},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": kind,
        "reason": reason[:128],
        "action": action[:128],
        "note": note.encode()[:1024].decode(errors="ignore"),
        "reportingController": f"{names.GROUP}/{names.FIELD_MANAGER}",
        "reportingInstance": instance[:128],
        "regarding": {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
    }
