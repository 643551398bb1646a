"""The pod in which directives that need a restart are tried before a server restarts with them (rule 13).

Redis answers "immutable" before it looks at a value, so a bad one would show only when the one pod does not come up
again. The trial starts the same image with the same files on a socket of its own, without data, and quits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from cachepolicy import names
from cachepolicy.names import Role
from cachepolicy_operator.resources import config_map
from cachepolicy_operator.resources.inputs import RenderInputs
from cachepolicy_operator.resources.labels import object_labels
from cachepolicy_operator.resources.metadata import metadata
from cachepolicy_operator.resources.statefulset import (
    CONFIG_DIR,
    RESTART_DIR,
    USER,
    config_volume,
    pull_secrets,
    scheduling,
)

#: Component of trial pods: no Service and no StatefulSet selects them.
COMPONENT: Final = "trial"

# It has started when it answers anything at all. What it wrote before it ended is the pod's last message.
_TRY: Final = """\
cd /tmp
server="$(command -v redis-server || command -v valkey-server)"
cli="$(command -v redis-cli || command -v valkey-cli)"
( "$server" "$@"; echo > ended ) &
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
  case "$("$cli" -s trial.sock PING 2>&1)" in *PONG*|*NOAUTH*|*NOPERM*|*LOADING*) exit 0;; esac
  [ -e ended ] && exit 1
  sleep 0.2
done
echo "the server did not answer within 6 seconds"
exit 1
"""


def trial_pod(inputs: RenderInputs, role: Role, candidate: Mapping[str, str]) -> dict[str, Any]:
    """The pod that tries ``candidate``; its name changes with everything that could change the result."""
    spec = _spec(inputs, role, candidate)
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{names.server(inputs.name, role)}-trial-{digest}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata(inputs, name, COMPONENT), "labels": object_labels(inputs.name, COMPONENT)},
        "spec": spec,
    }


def _spec(inputs: RenderInputs, role: Role, candidate: Mapping[str, str]) -> dict[str, Any]:
    managed = inputs.spec.redis.managed
    files = config_map.restart_name(inputs.name, role, candidate)
    assert files is not None  # noqa: S101 - nothing to try is not tried
    return {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 300,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **scheduling(managed.scheduling),
        **pull_secrets(managed),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(inputs)],
        "volumes": [
            config_volume("config", names.redis_config_map(inputs.name, role), names.FILE_REDIS_CONF),
            config_volume("restart", files, names.FILE_RESTART_CONF),
            {"name": "tmp", "emptyDir": {"sizeLimit": "16Mi"}},
        ],
    }


def _container(inputs: RenderInputs) -> dict[str, Any]:
    # What comes last wins: whatever the files say, the trial writes nothing and listens nowhere but here.
    harmless = ["--port", "0", "--unixsocket", "/tmp/trial.sock", "--dir", "/tmp"]  # noqa: S108 - in the container
    harmless += ["--appendonly", "no", "--save", "", "--daemonize", "no"]
    files = [f"{CONFIG_DIR}/{names.FILE_REDIS_CONF}", "--include", f"{RESTART_DIR}/{names.FILE_RESTART_CONF}"]
    return {
        "name": "trial",
        "image": inputs.image,
        "imagePullPolicy": str(inputs.spec.redis.managed.image_pull_policy),
        "command": ["sh", "-c", _TRY, "trial", *files, *harmless],
        "resources": {
            "requests": {"cpu": "20m", "memory": "64Mi"},
            "limits": {"memory": "64Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "restart", "mountPath": RESTART_DIR, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
        ],
    }
