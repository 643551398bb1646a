"""The kinds of objects that the operator has to do with, and the paths that serve them.

Known beforehand, so that no discovery request happens at run time. All of them are namespaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from cachepolicy import names


@dataclass(frozen=True)
class Kind:
    """One namespaced kind of object and the path that serves it."""

    api_version: str
    name: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Path of one object, or of the collection when `name` is None; all namespaces when `namespace` is None."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        place = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        parts = [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join([f"{root}{place}/{self.plural}", *parts])


CACHE_POLICY: Final = Kind(names.API_VERSION, names.KIND, names.PLURAL)
CONFIG_MAP: Final = Kind("v1", "ConfigMap", "configmaps")
SECRET: Final = Kind("v1", "Secret", "secrets")
SERVICE: Final = Kind("v1", "Service", "services")
POD: Final = Kind("v1", "Pod", "pods")
CLAIM: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
STATEFUL_SET: Final = Kind("apps/v1", "StatefulSet", "statefulsets")
NETWORK_POLICY: Final = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")
EVENT: Final = Kind("events.k8s.io/v1", "Event", "events")

KINDS: Final[Mapping[tuple[str, str], Kind]] = {
    (kind.api_version, kind.name): kind
    for kind in (
        CACHE_POLICY,
        CONFIG_MAP,
        SECRET,
        SERVICE,
        POD,
        CLAIM,
        STATEFUL_SET,
        NETWORK_POLICY,
        LEASE,
        EVENT,
    )
}


def kind_of(obj: Mapping[str, Any]) -> Kind:
    """The kind of a whole object. Raises ValueError for one that the operator has no business with."""
    try:
        return KINDS[obj["apiVersion"], obj["kind"]]
    except KeyError:
        raise ValueError(f"no path known for {obj.get('apiVersion')}/{obj.get('kind')}") from None
