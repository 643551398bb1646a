"""The files of a policy that runs on this machine, and nothing but files.

    <root>/credentials.json     made once, 0600
    <root>/policy/              the policy directory of Core (CACHEPOLICY_DIR), as a pod sees it
    <root>/state/, <root>/cache/   one server each: its configuration as in the ConfigMaps, its data, its log

What stands in the files is taken out of the objects that the operator would apply, so it cannot differ from them.
"""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import json
import os
import secrets
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachepolicy import names
from cachepolicy.document import DocumentError, PolicyDocument, read_document
from cachepolicy.names import Role
from cachepolicy_operator.embedded import Launch
from cachepolicy_operator.resources import Credentials, ServerConfig, read_live, read_restart
from cachepolicy_operator.resources.config_map import RESTART_JSON

CONFIG_MAP, SECRET = "ConfigMap", "Secret"
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600


class LocalFilesError(Exception):
    """A file of the data folder cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class Identity:
    """What an API server and the operator would have made for the policy: made once, kept in the folder."""

    uid: str
    credentials: Credentials


class LocalFiles:
    """Reads and writes below one data folder. Every file is replaced as a whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._claim: int | None = None

    def claim(self) -> None:
        """Be the only one who writes here, until :meth:`release` or the end of this process.

        Raises :class:`LocalFilesError` when another process is. Harmless when called again.
        """
        if self._claim is not None:
            return
        try:
            self.root.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        except OSError as error:
            raise LocalFilesError(f"{self.root} cannot be used as a data folder: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise LocalFilesError(
                f"another process runs a policy in {self.root}: stop it, or choose another data folder"
            ) from None
        self._claim = descriptor

    def release(self) -> None:
        if self._claim is not None:
            os.close(self._claim)
        self._claim = None

    @property
    def policy_directory(self) -> Path:
        return self.root / "policy"

    def server_folder(self, role: Role) -> Path:
        return self.root / role

    def launch(self, role: Role) -> Launch:
        folder = self.server_folder(role)
        restart = folder / names.FILE_RESTART_CONF
        return Launch(
            folder,
            folder / names.FILE_REDIS_CONF,
            folder / names.FILE_ACL,
            restart if restart.exists() else None,
        )

    # ------------------------------------------------------------------------------------------------ read

    def identity(self) -> Identity:
        """The uid and credentials of this folder, made at the first call."""
        path = self.root / "credentials.json"
        if not path.exists():
            made = Identity(str(uuid.uuid4()), Credentials.generate())
            content = {"uid": made.uid, **dataclasses.asdict(made.credentials)}
            write_file(path, json.dumps(content, indent=2) + "\n")
        try:
            content = json.loads(path.read_text())
            return Identity(content.pop("uid"), Credentials(**content))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LocalFilesError(
                f"{path} cannot be read ({type(error).__name__}): remove the folder {self.root} to begin anew"
            ) from None  # the cause could quote a password

    def document(self) -> PolicyDocument | None:
        """The policy document that is out now; None when there is none, or none that can be read."""
        try:
            return read_document((self.policy_directory / names.FILE_POLICY).read_bytes()).document
        except (OSError, DocumentError):
            return None

    def server_config(self, role: Role) -> ServerConfig:
        """What a server has accepted so far, by the operator's own notes beside redis.conf."""
        folder = self.server_folder(role)
        return ServerConfig(
            live=read_live({"data": _texts(folder, names.FILE_LIVE)}, names.FILE_LIVE),
            restart=read_restart({"data": _texts(folder, RESTART_JSON)}),
        )

    # ----------------------------------------------------------------------------------------------- write

    def write_servers(self, policy: str, roles: Iterable[Role], objects: Iterable[Mapping[str, Any]]) -> None:
        """The configuration of each server, out of its ConfigMaps and the Secret with the users."""
        found = _contents(objects)
        for role in roles:
            folder = self.server_folder(role)
            folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            restart_name = names.restart_config_map(policy, role, "")
            restart = next((data for (_, name), data in found.items() if name.startswith(restart_name)), {})
            entries = {
                **found[CONFIG_MAP, names.redis_config_map(policy, role)],
                names.FILE_ACL: found[SECRET, names.redis_auth_secret(policy)][names.FILE_ACL],
                **restart,
            }
            write_files(folder, entries)
            if not restart:
                for stale in (names.FILE_RESTART_CONF, RESTART_JSON):
                    (folder / stale).unlink(missing_ok=True)

    def write_policy(self, policy: str, objects: Iterable[Mapping[str, Any]]) -> None:
        """The policy directory as a pod mounts it. The document comes last: what it needs is there by then."""
        found = _contents(objects)
        credentials = found[SECRET, names.core_secret(policy)]
        entries = {
            names.FILE_USERNAME: credentials[names.FILE_USERNAME],
            names.FILE_PASSWORD: credentials[names.FILE_PASSWORD],
            **found[SECRET, names.core_keys_secret(policy)],
            **found[CONFIG_MAP, names.core_config_map(policy)],
        }
        self.policy_directory.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        write_files(self.policy_directory, entries)


def write_files(folder: Path, entries: Mapping[str, str]) -> None:
    """Write the entries in their order; one that stands there already is not touched, so nobody is woken for it."""
    for name, text in entries.items():
        path = folder / name
        with suppress(OSError):
            if path.read_text() == text:
                continue
        write_file(path, text)


def write_file(path: Path, text: str) -> None:
    """Replace ``path`` at once: a reader sees the old text or the new one. Only this user can read it."""
    path.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _contents(objects: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, str]]:
    """Entries of every ConfigMap and Secret by kind and name."""
    found = {}
    for obj in objects:
        key = (obj["kind"], obj["metadata"]["name"])
        if obj["kind"] == CONFIG_MAP:
            found[key] = dict(obj["data"])
        elif obj["kind"] == SECRET:
            found[key] = {entry: base64.b64decode(value).decode() for entry, value in obj["data"].items()}
    return found


def _texts(folder: Path, entry: str) -> dict[str, str]:
    try:
        return {entry: (folder / entry).read_text()}
    except OSError:
        return {}
