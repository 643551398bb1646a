"""The Secrets of a policy, by who may mount them."""

from __future__ import annotations

import base64
from typing import Any

from cachepolicy import names
from cachepolicy.names import Role
from cachepolicy_operator.resources.acl import acl_file
from cachepolicy_operator.resources.credentials import Credentials
from cachepolicy_operator.resources.inputs import RenderInputs
from cachepolicy_operator.resources.labels import APPLICATION, COMPONENT_CORE
from cachepolicy_operator.resources.metadata import metadata
from cachepolicy_operator.resources.service import server_host

#: What tools call a Redis: https://servicebinding.io/spec/core/1.1.0/#well-known-secret-entries
BINDING_TYPE = "redis"
_URI_ENTRY = {Role.STATE: names.FILE_STATE_URI, Role.CACHE: names.FILE_CACHE_URI}


def redis_auth_secret(inputs: RenderInputs) -> dict[str, Any]:
    """The ACL file (mounted in Redis pods only), the operator's password and the credentials' generation."""
    entries = {
        names.FILE_ACL: acl_file(inputs.keys.prefix, inputs.credentials),
        names.FILE_OPERATOR_PASSWORD: inputs.credentials.operator_password,
        names.FILE_GENERATION: inputs.credentials.generation,
        **_rotation(inputs.credentials),
    }
    return _secret(inputs, names.redis_auth_secret(inputs.name), APPLICATION, entries)


def _rotation(credentials: Credentials) -> dict[str, str]:
    entries = {
        names.FILE_NEXT_CORE: credentials.next_core,
        names.FILE_RETIRING_CORE: credentials.retiring_core,
        names.FILE_ROTATION: credentials.rotation,
    }
    return {name: value for name, value in entries.items() if value}


def core_secret(inputs: RenderInputs) -> dict[str, Any]:
    """What Core and other clients log in with: the core user, and a whole URI for each server."""
    password = inputs.credentials.core_password
    entries = {names.FILE_USERNAME: names.USER_CORE, names.FILE_PASSWORD: password}
    for role in inputs.spec.roles:
        entries[_URI_ENTRY[role]] = _uri(server_host(inputs.namespace, inputs.name, role), password)
    return _secret(inputs, names.core_secret(inputs.name), COMPONENT_CORE, entries)


def core_keys_secret(inputs: RenderInputs) -> dict[str, Any]:
    """The key under which cache keys are made and the token of the admin endpoints."""
    entries = {
        names.FILE_HMAC_KEY: inputs.credentials.cache_hmac_key,
        names.FILE_ADMIN_TOKEN: inputs.credentials.admin_token,
    }
    return _secret(inputs, names.core_keys_secret(inputs.name), COMPONENT_CORE, entries)


def binding_secret(inputs: RenderInputs) -> dict[str, Any]:
    """A Provisioned Service's Secret (Service Binding for Kubernetes 1.1): the core user at one server.

    That is the state server where there is one, else the cache: the well-known entries have room for one host.
    """
    role, password = inputs.spec.roles[0], inputs.credentials.core_password
    host = server_host(inputs.namespace, inputs.name, role)
    entries = {
        "type": BINDING_TYPE,
        "provider": APPLICATION,
        "host": host,
        "port": str(names.REDIS_PORT),
        "username": names.USER_CORE,
        "password": password,
        "uri": _uri(host, password),
    }
    secret = _secret(inputs, names.binding_secret(inputs.name), COMPONENT_CORE, entries)
    return {**secret, "type": f"servicebinding.io/{BINDING_TYPE}"}


def _uri(host: str, password: str) -> str:
    return f"redis://{names.USER_CORE}:{password}@{host}:{names.REDIS_PORT}/0"


def _secret(inputs: RenderInputs, name: str, component: str, entries: dict[str, str]) -> dict[str, Any]:
    # `data` and not `stringData`: the latter is never read back, so it cannot be compared or owned.
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(inputs, name, component),
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in entries.items()},
    }
