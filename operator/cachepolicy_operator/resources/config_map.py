"""The ConfigMaps of a policy: configuration of each server, and the policy document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from cachepolicy import names
from cachepolicy.names import Role
from cachepolicy_operator.resources.inputs import RenderInputs, live_json
from cachepolicy_operator.resources.labels import COMPONENT_CORE
from cachepolicy_operator.resources.metadata import metadata
from cachepolicy_operator.resources.redis_conf import redis_conf, restart_conf

# Beside the file that Redis reads: the same directives for the operator, so that it never parses redis.conf.
RESTART_JSON: Final = "restart.json"


def redis_config_map(inputs: RenderInputs, role: Role) -> dict[str, Any]:
    """`redis.conf` and, for the operator, which directives are live and what they were before."""
    config = inputs.server(role)
    data = {
        names.FILE_REDIS_CONF: redis_conf(inputs.spec, role, config),
        names.FILE_LIVE: live_json(config.live),
    }
    return _config_map(inputs, names.redis_config_map(inputs.name, role), str(role), data)


def restart_name(policy: str, role: Role, directives: Mapping[str, str]) -> str | None:
    """Name of the restart ConfigMap for these directives, by the hash of their text; None when there are none."""
    if not directives:
        return None
    digest = hashlib.sha256(restart_conf(directives).encode()).hexdigest()[:10]
    return names.restart_config_map(policy, role, digest)


def restart_config_map(inputs: RenderInputs, role: Role, wanted: Mapping[str, str]) -> dict[str, Any] | None:
    """The immutable ConfigMap of directives that need a restart; None when there are none."""
    directives = dict(sorted(wanted.items()))
    name = restart_name(inputs.name, role, directives)
    if name is None:
        return None
    data = {names.FILE_RESTART_CONF: restart_conf(directives), RESTART_JSON: json.dumps(directives) + "\n"}
    return {**_config_map(inputs, name, str(role), data), "immutable": True}


def read_restart(config_map: Mapping[str, Any] | None) -> dict[str, str]:
    """Directives of a live restart ConfigMap; what somebody broke by hand counts as not there."""
    try:
        rows = json.loads(((config_map or {}).get("data") or {}).get(RESTART_JSON) or "{}")
        return {str(key): str(value) for key, value in rows.items()}
    except (ValueError, AttributeError):
        return {}


def core_config_map(inputs: RenderInputs) -> dict[str, Any]:
    """The policy document for Core: one key, the whole document."""
    data = {names.FILE_POLICY: inputs.document.to_json()}
    return _config_map(inputs, names.core_config_map(inputs.name), COMPONENT_CORE, data)


def _config_map(inputs: RenderInputs, name: str, component: str, data: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(inputs, name, component),
        "data": data,
    }
