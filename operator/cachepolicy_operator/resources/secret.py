"""The three Secrets of a policy, by who may mount them."""

from __future__ import annotations

import base64
from typing import Any

from cachepolicy import names
from cachepolicy.names import Role
from cachepolicy_operator.resources.acl import acl_file
from cachepolicy_operator.resources.inputs import RenderInputs
from cachepolicy_operator.resources.labels import APPLICATION, COMPONENT_CORE
from cachepolicy_operator.resources.metadata import metadata
from cachepolicy_operator.resources.service import server_host

_URI_ENTRY = {Role.STATE: names.FILE_STATE_URI, Role.CACHE: names.FILE_CACHE_URI}


def redis_auth_secret(inputs: RenderInputs) -> dict[str, Any]:
    """The ACL file (mounted in Redis pods only), the operator's password and the credentials' generation."""
    entries = {
        names.FILE_ACL: acl_file(inputs.keys.prefix, inputs.credentials),
        names.FILE_OPERATOR_PASSWORD: inputs.credentials.operator_password,
        names.FILE_GENERATION: inputs.credentials.generation,
    }
    return _secret(inputs, names.redis_auth_secret(inputs.name), APPLICATION, entries)


def core_secret(inputs: RenderInputs) -> dict[str, Any]:
    """What Core and other clients log in with: the core user, and a whole URI for each server."""
    password = inputs.credentials.core_password
    entries = {names.FILE_USERNAME: names.USER_CORE, names.FILE_PASSWORD: password}
    for role in inputs.spec.roles:
        host = server_host(inputs.namespace, inputs.name, role)
        entries[_URI_ENTRY[role]] = f"redis://{names.USER_CORE}:{password}@{host}:{names.REDIS_PORT}/0"
    return _secret(inputs, names.core_secret(inputs.name), COMPONENT_CORE, entries)


def core_keys_secret(inputs: RenderInputs) -> dict[str, Any]:
    """The key under which cache keys are made and the token of the admin endpoints."""
    entries = {
        names.FILE_HMAC_KEY: inputs.credentials.cache_hmac_key,
        names.FILE_ADMIN_TOKEN: inputs.credentials.admin_token,
    }
    return _secret(inputs, names.core_keys_secret(inputs.name), COMPONENT_CORE, entries)


def _secret(inputs: RenderInputs, name: str, component: str, entries: dict[str, str]) -> dict[str, Any]:
    # `data` and not `stringData`: the latter is never read back, so it cannot be compared or owned.
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(inputs, name, component),
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in entries.items()},
    }
