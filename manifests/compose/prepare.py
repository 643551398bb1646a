"""Writes what docker-compose.yaml mounts: redis.conf, Redis users, the policy document and generated secrets.

Usage: prepare.py [POLICY.yaml]    (default: manifests/samples/core.yaml)

Everything comes from the operator's own builders, so it is what a cluster would get. Run it again after a change of the
policy: secrets stay as they are, and running replicas of Core follow the new document without a restart.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from cachepolicy import names
from cachepolicy.document import DocumentError, PolicyDocument, build_document, read_document
from cachepolicy.keys import KeyLayout
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.policyfile import PolicyManifest, read_policies
from cachepolicy_operator.render import offline_uid
from cachepolicy_operator.resources.acl import acl_file
from cachepolicy_operator.resources.credentials import Credentials, FoundCredentials, random_token
from cachepolicy_operator.resources.inputs import LiveDirective, ServerConfig
from cachepolicy_operator.resources.redis_conf import redis_conf
from cachepolicy_operator.stack import Person, api_keys

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parent / "samples" / "core.yaml"
# Services of docker-compose.yaml.
ENDPOINTS = {role: f"redis://{role}:{names.REDIS_PORT}" for role in Role}
# Whom the reference Core lets in: file with the key → what the key stands for.
PEOPLE = {"alice": Person("acme", "alice"), "bob": Person("globex", "bob")}


def prepare(manifest: PolicyManifest, target: Path, now_ms: int) -> PolicyDocument:
    """Write every file below `target` and return the document. Secrets that are there are kept."""
    # Containers run as several users and must read the files; the folder above keeps this machine's other users out.
    target.mkdir(mode=0o700, exist_ok=True)
    policy = target / "policy"
    credentials = _credentials(target)
    prefix = KeyLayout.of_policy(manifest.namespace, manifest.name).prefix
    for role in Role:
        conf = redis_conf(manifest.spec, role, _directives(manifest.spec, role))
        _write(target / str(role) / names.FILE_REDIS_CONF, conf)
    _write(target / "auth" / names.FILE_ACL, acl_file(prefix, credentials))
    _write(target / names.FILE_OPERATOR_PASSWORD, credentials.operator_password)
    _write(policy / names.FILE_USERNAME, names.USER_CORE)
    _write(policy / names.FILE_PASSWORD, credentials.core_password)
    _write(policy / names.FILE_HMAC_KEY, credentials.cache_hmac_key)
    _write(policy / names.FILE_ADMIN_TOKEN, credentials.admin_token)
    _write(target / "api-keys" / "keys.json", _api_keys(target))
    document = build_document(
        namespace=manifest.namespace,
        name=manifest.name,
        uid=offline_uid(manifest),
        spec=manifest.spec,
        endpoints=ENDPOINTS,
        previous=_previous(policy / names.FILE_POLICY),
        now_ms=now_ms,
    )
    _write(policy / names.FILE_POLICY, document.to_json())
    return document


def _credentials(target: Path) -> Credentials:
    policy = target / "policy"
    return FoundCredentials(
        operator_password=_read(target / names.FILE_OPERATOR_PASSWORD),
        core_password=_read(policy / names.FILE_PASSWORD),
        cache_hmac_key=_read(policy / names.FILE_HMAC_KEY),
        admin_token=_read(policy / names.FILE_ADMIN_TOKEN),
    ).complete()


def _directives(spec: CachePolicySpec, role: Role) -> ServerConfig:
    # Nobody asks a running server here, so a directive goes into the file as it was written.
    config = spec.server(role).config
    return ServerConfig(live={key: LiveDirective(value, value, "") for key, value in config.items()})


def _api_keys(target: Path) -> str:
    people = {}
    for name, person in PEOPLE.items():
        file = target / f"api-key-{name}"
        key = _read(file) or random_token()
        _write(file, key)
        people[key] = person
    return api_keys(people)


def _previous(file: Path) -> PolicyDocument | None:
    try:
        return read_document(file.read_bytes()).document
    except (FileNotFoundError, DocumentError):
        return None


def _read(file: Path) -> str | None:
    return file.read_text().strip() or None if file.exists() else None


def _write(file: Path, text: str) -> None:
    """In one step: a reader sees the old file or the new one."""
    file.parent.mkdir(mode=0o755, exist_ok=True)
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(text)
    beside.chmod(0o644)
    os.replace(beside, file)


def main(arguments: list[str]) -> int:
    source = Path(arguments[0]) if arguments else SAMPLE
    found = read_policies(source.read_text())
    for problem in found.problems:
        print(f"{source}:{problem.line}: {problem}", file=sys.stderr)
    if found.problems:
        return 1
    if len(found.policies) != 1:
        print(f"{source}: one CachePolicy is needed, found {len(found.policies)}", file=sys.stderr)
        return 1
    target = HERE / "generated"
    document = prepare(found.policies[0], target, time.time_ns() // 1_000_000)
    print(f"{target}: revision {document.revision} of {document.policy}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
