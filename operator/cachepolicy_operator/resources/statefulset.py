"""The StatefulSet of a server.

The pod must start in a namespace that enforces PodSecurity `restricted` (rule 8). Every field whose addition by
somebody else would change Redis or open it is written out even when empty, because server-side apply can only take
back what it owns. The template depends on the spec, on the credentials' generation and on the name of the restart
ConfigMap, and on nothing else: no live change may roll a pod (rule 15).
"""

from __future__ import annotations

import math
from typing import Any, Final

from cachepolicy import names
from cachepolicy.names import Role
from cachepolicy.pods import Scheduling
from cachepolicy.servers import ManagedRedis, StateServer
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.resources import config_map, memory
from cachepolicy_operator.resources.inputs import RenderInputs
from cachepolicy_operator.resources.labels import object_labels, selector
from cachepolicy_operator.resources.metadata import metadata
from cachepolicy_operator.resources.probes import probes
from cachepolicy_operator.resources.redis_conf import SHUTDOWN_TIMEOUT, has_disk

CONTAINER: Final = "redis"
DATA_VOLUME: Final = "data"
# The user of both public images, Debian variants; any other works, as all files are reached through the group.
USER: Final = 999

CONFIG_DIR: Final = "/cachepolicy/config"
AUTH_DIR: Final = "/cachepolicy/auth"
RESTART_DIR: Final = "/cachepolicy/restart"
DATA_DIR: Final = "/data"

# Either server's binary takes over the shell's process, so it gets SIGTERM itself.
_START = 'exec "$(command -v redis-server || command -v valkey-server)" "$@"'
# Redis writes 50 to 100 MB/s into a snapshot on ordinary disks; counted with 20.
_SAVE_RATE: Final = 20 * memory.MIB
_SHORTEST_GRACE: Final = 30


def statefulset(inputs: RenderInputs, role: Role) -> dict[str, Any]:
    """One Redis server. Raises Stalled when its memory does not work out."""
    memory.check_requests(inputs.spec, role)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(inputs, names.server(inputs.name, role), str(role)),
        "spec": {
            "replicas": replicas(inputs.spec),
            "serviceName": names.headless_service(inputs.name, role),
            "podManagementPolicy": "OrderedReady",
            "revisionHistoryLimit": 3,
            "minReadySeconds": 0,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
            "selector": {"matchLabels": selector(inputs.name, role)},
            "template": _template(inputs, role),
            **_claims(inputs, role),
        },
    }


def replicas(spec: CachePolicySpec) -> int:
    """How many pods a server has."""
    return 0 if spec.redis.managed.hibernated else 1


def claim_name(policy: str, role: Role, ordinal: int = 0) -> str:
    """Name of the PersistentVolumeClaim that the StatefulSet makes for a pod."""
    return f"{DATA_VOLUME}-{names.server(policy, role)}-{ordinal}"


def grace_period(maxmemory: int, *, disk: bool) -> int:
    """Seconds from SIGTERM to SIGKILL: waiting for replicas, and saving all data where it is saved (rule 5)."""
    save = math.ceil(maxmemory / _SAVE_RATE) if disk else 0
    return max(_SHORTEST_GRACE, SHUTDOWN_TIMEOUT + 10 + save)


def _template(inputs: RenderInputs, role: Role) -> dict[str, Any]:
    managed = inputs.spec.redis.managed
    return {
        "metadata": {
            "labels": {**managed.pod_metadata.labels, **object_labels(inputs.name, str(role))},
            "annotations": {
                **managed.pod_metadata.annotations,
                names.ANNOTATION_CREDENTIALS: inputs.credentials.generation,
            },
        },
        "spec": {
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "serviceAccountName": "default",
            "automountServiceAccountToken": False,
            # Variables of other Services in the namespace are of no use to Redis.
            "enableServiceLinks": False,
            "hostNetwork": False,
            "hostPID": False,
            "hostIPC": False,
            "shareProcessNamespace": False,
            **scheduling(managed.scheduling),
            **pull_secrets(managed),
            "terminationGracePeriodSeconds": grace_period(
                memory.maxmemory(inputs.spec, role), disk=has_disk(inputs.spec, role)
            ),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
                "supplementalGroups": [],
                "sysctls": [],
            },
            "containers": [_container(inputs, role)],
            "volumes": _volumes(inputs, role),
        },
    }


def scheduling(wanted: Scheduling) -> dict[str, Any]:
    """Empty ones are written too, or somebody could send the pods elsewhere; absent ones have no empty form."""
    spread = [dict(item) for item in wanted.topology_spread_constraints]
    return {
        "nodeSelector": dict(wanted.node_selector),
        "tolerations": [dict(item) for item in wanted.tolerations],
        **({"affinity": wanted.affinity} if wanted.affinity else {}),
        **({"topologySpreadConstraints": spread} if spread else {}),
        **({"priorityClassName": wanted.priority_class_name} if wanted.priority_class_name else {}),
    }


def pull_secrets(managed: ManagedRedis) -> dict[str, Any]:
    """`imagePullSecrets` of a pod, where there are any."""
    found = [{"name": secret.name} for secret in managed.image_pull_secrets]
    return {"imagePullSecrets": found} if found else {}


def _container(inputs: RenderInputs, role: Role) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": inputs.image,
        "imagePullPolicy": str(inputs.spec.redis.managed.image_pull_policy),
        "command": _command(restart=bool(inputs.server(role).restart)),
        "args": [],
        "envFrom": [],
        "workingDir": DATA_DIR,
        "ports": [{"name": "redis", "containerPort": names.REDIS_PORT, "protocol": "TCP"}],
        "resources": memory.container_resources(inputs.spec, role),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"], "add": []},
        },
        "terminationMessagePath": "/dev/termination-log",
        # Redis says on its output why it did not start; status can then repeat it.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(inputs, role),
        **probes(),
    }


def _command(*, restart: bool) -> list[str]:
    places = ["--dir", DATA_DIR, "--aclfile", f"{AUTH_DIR}/{names.FILE_ACL}"]
    include = ["--include", f"{RESTART_DIR}/{names.FILE_RESTART_CONF}"] if restart else []
    return ["sh", "-c", _START, "redis", f"{CONFIG_DIR}/{names.FILE_REDIS_CONF}", *places, *include]


def _mounts(inputs: RenderInputs, role: Role) -> list[dict[str, Any]]:
    read_only = [("config", CONFIG_DIR), ("auth", AUTH_DIR)]
    read_only += [("restart", RESTART_DIR)] if inputs.server(role).restart else []
    return [
        *({"name": name, "mountPath": path, "readOnly": True} for name, path in read_only),
        {"name": DATA_VOLUME, "mountPath": DATA_DIR},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own, writable as some tools want it
    ]


def _volumes(inputs: RenderInputs, role: Role) -> list[dict[str, Any]]:
    files = config_map.restart_name(inputs.name, role, inputs.server(role).restart)
    restart = [config_volume("restart", files, names.FILE_RESTART_CONF)] if files else []
    data = [] if has_disk(inputs.spec, role) else [{"name": DATA_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}}]
    return [
        config_volume("config", names.redis_config_map(inputs.name, role), names.FILE_REDIS_CONF),
        {
            "name": "auth",
            "secret": {
                "secretName": names.redis_auth_secret(inputs.name),
                # Not the operator's password: the server needs its hash only.
                "items": [{"key": names.FILE_ACL, "path": names.FILE_ACL}],
                "defaultMode": 0o440,
                "optional": False,
            },
        },
        *restart,
        *data,
        {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
    ]


def config_volume(volume: str, name: str, entry: str) -> dict[str, Any]:
    """One entry of a ConfigMap as a file."""
    items = [{"key": entry, "path": entry}]
    config_map = {"name": name, "items": items, "defaultMode": 0o444, "optional": False}
    return {"name": volume, "configMap": config_map}


def _claims(inputs: RenderInputs, role: Role) -> dict[str, Any]:
    """`volumeClaimTemplates`, for a server with storage only: the field can never change afterwards (rule 17)."""
    server = inputs.spec.server(role)
    storage = server.storage if isinstance(server, StateServer) else None
    if storage is None:
        return {}
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": str(storage.size)}},
    }
    if storage.class_name is not None:
        spec["storageClassName"] = storage.class_name
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": DATA_VOLUME, "labels": object_labels(inputs.name, str(role))},
        "spec": spec,
    }
    return {"volumeClaimTemplates": [claim]}
