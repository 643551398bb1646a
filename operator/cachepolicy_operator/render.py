"""``kubectl-cachepolicy render``: every object that the operator makes of a CachePolicy, offline and always the same.

What only a cluster or a server can tell is a placeholder: the policy's uid, the moment of its last change, generated
passwords. Directives of ``config`` are not in the rendered redis.conf, as they are not in a fresh server's: they are
set on the running server first, and written in the spelling that it accepts.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, TextIO

import yaml

from cachepolicy import names
from cachepolicy.document import PolicyDocument, build_document
from cachepolicy.names import Role
from cachepolicy_operator.policyfile import PolicyManifest
from cachepolicy_operator.resources import Credentials, RenderInputs, build_objects, endpoint_url
from cachepolicy_operator.resources.acl import password_hash

#: Secrets that the operator makes and nobody else knows.
PLACEHOLDERS: Final = Credentials(
    operator_password="<operator-password>",  # noqa: S106 - a placeholder
    core_password="<core-password>",  # noqa: S106 - a placeholder
    cache_hmac_key="<cache-hmac-key>",
    admin_token="<admin-token>",  # noqa: S106 - a placeholder
    generation="<generation>",
)
#: A render is of no moment: the operator writes the millisecond of the last change.
SEQUENCE: Final = 0

#: Where manifests/base puts the operator.
OPERATOR_NAMESPACE: Final = "cachepolicy-system"

#: What ``--only`` may name.
PARTS: Final = (names.FILE_POLICY, *(f"{role}/{names.FILE_REDIS_CONF}" for role in Role))


class NoSuchPartError(Exception):
    """The policy has no server of that role."""


def offline_uid(manifest: PolicyManifest) -> str:
    """A uid for a policy that no API server has seen: the same for every render of the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{names.GROUP}/{manifest.namespace}/{manifest.name}"))


def render_document(manifest: PolicyManifest, endpoints: Mapping[Role, str]) -> PolicyDocument:
    """The policy document; ``endpoints`` replaces the Services' addresses, by role."""
    urls = {
        role: endpoints.get(role) or endpoint_url(manifest.namespace, manifest.name, role)
        for role in manifest.spec.roles
    }
    return build_document(
        namespace=manifest.namespace,
        name=manifest.name,
        uid=offline_uid(manifest),
        spec=manifest.spec,
        endpoints=urls,
        previous=None,
        now_ms=SEQUENCE,
    )


def render_objects(
    manifest: PolicyManifest, default_image: str, endpoints: Mapping[Role, str]
) -> list[dict[str, Any]]:
    """All objects in the order of applying, with placeholders; Secrets in their readable form (``stringData``)."""
    inputs = RenderInputs(
        namespace=manifest.namespace,
        name=manifest.name,
        uid=offline_uid(manifest),
        spec=manifest.spec,
        default_image=default_image,
        credentials=PLACEHOLDERS,
        document=render_document(manifest, endpoints),
        operator_namespace=OPERATOR_NAMESPACE,
    )
    return [_readable(obj) for obj in build_objects(inputs)]


def render_part(objects: list[dict[str, Any]], policy: str, part: str) -> str:
    """The content of one of :data:`PARTS`. Raises :class:`NoSuchPartError` for a server that the policy has not."""
    if part == names.FILE_POLICY:
        wanted, entry = names.core_config_map(policy), part
    else:
        role, _, entry = part.partition("/")
        wanted = names.redis_config_map(policy, Role(role))
    for obj in objects:
        if obj["kind"] == "ConfigMap" and obj["metadata"]["name"] == wanted:
            return str(obj["data"][entry])
    raise NoSuchPartError(
        f"{part}: {policy} has no {part.partition('/')[0]} server, as no section of it needs one"
    )


def write_yaml(objects: list[dict[str, Any]], out: TextIO) -> None:
    """One YAML document each; texts of several lines as blocks, as they were written."""
    yaml.dump_all(
        objects, out, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=10_000, allow_unicode=True
    )


def _readable(obj: dict[str, Any]) -> dict[str, Any]:
    if obj["kind"] != "Secret":
        return obj
    texts = {key: _placeheld(base64.b64decode(value).decode()) for key, value in obj["data"].items()}
    return {**{key: value for key, value in obj.items() if key != "data"}, "stringData": texts}


def _placeheld(text: str) -> str:
    """``text`` with hashes of placeholders shown as what they are."""
    for secret in (PLACEHOLDERS.operator_password, PLACEHOLDERS.core_password):
        text = text.replace(password_hash(secret), f"<sha256 of {secret[1:-1]}>")
    return text


class _Dumper(yaml.SafeDumper):
    """Blocks for texts of several lines, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def directives_left_out(manifest: PolicyManifest) -> Iterator[str]:
    """Fields of the spec that a render cannot show, as sentences."""
    for role in manifest.spec.roles:
        if keys := sorted(manifest.spec.server(role).config):
            yield (
                f"spec.redis.managed.{role}.config ({', '.join(keys)}) is not in redis.conf yet: "
                "the running server is asked first, then it is written as the server accepted it"
            )
