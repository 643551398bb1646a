"""Pure builders: a CachePolicy and what was decided about it in, Kubernetes objects out.

Each module builds one kind of object; :func:`build_objects` puts them in the order in which they are applied. Objects
are whole: every field in them is owned by the operator, and what is not in them is somebody else's.
"""

from __future__ import annotations

from typing import Any

from cachepolicy.names import Role
from cachepolicy_operator.resources import network_policy
from cachepolicy_operator.resources.config_map import (
    core_config_map,
    read_restart,
    redis_config_map,
    restart_config_map,
    restart_name,
)
from cachepolicy_operator.resources.credentials import (
    Credentials,
    FoundCredentials,
    found_in,
    random_token,
)
from cachepolicy_operator.resources.inputs import LiveDirective, RenderInputs, ServerConfig, read_live
from cachepolicy_operator.resources.secret import (
    binding_secret,
    core_keys_secret,
    core_secret,
    redis_auth_secret,
)
from cachepolicy_operator.resources.service import client_service, endpoint_url, headless_service, server_host
from cachepolicy_operator.resources.statefulset import statefulset
from cachepolicy_operator.resources.trial import trial_pod

__all__ = [
    "Credentials",
    "FoundCredentials",
    "LiveDirective",
    "RenderInputs",
    "ServerConfig",
    "build_objects",
    "endpoint_url",
    "found_in",
    "random_token",
    "read_live",
    "read_restart",
    "restart_name",
    "server_host",
]


def build_objects(inputs: RenderInputs) -> list[dict[str, Any]]:
    """Every object of one CachePolicy, in the order of applying: what a pod mounts stands before the pod.

    Raises :class:`cachepolicy_operator.errors.Stalled` when the spec does not work out (memory).
    """
    servers = [obj for role in inputs.spec.roles for obj in _server_objects(inputs, role)]
    # Before the servers: no pod is ever reachable by everybody.
    walls = (
        [network_policy.network_policy(inputs)]
        if network_policy.wanted(inputs.spec, inputs.operator_namespace)
        else []
    )
    return [
        redis_auth_secret(inputs),
        *walls,
        *servers,
        core_secret(inputs),
        core_keys_secret(inputs),
        binding_secret(inputs),
        core_config_map(inputs),
    ]


def _server_objects(inputs: RenderInputs, role: Role) -> list[dict[str, Any]]:
    config = inputs.server(role)
    files = [restart_config_map(inputs, role, wanted) for wanted in (config.restart, config.candidate or {})]
    trial = [trial_pod(inputs, role, config.candidate)] if config.candidate else []
    return [
        redis_config_map(inputs, role),
        *(obj for obj in files if obj is not None),
        *trial,
        headless_service(inputs, role),
        client_service(inputs, role),
        statefulset(inputs, role),
    ]
