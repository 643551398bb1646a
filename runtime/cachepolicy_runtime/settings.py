"""What the environment says, read once into one frozen value.

==============================  ==============================================================================
CACHEPOLICY_DIR                 folder of the policy document and its secrets; the document then names the servers
REDIS_URL                       one server for everything; or one for each kind:
REDIS_STATE_URL                 sessions and rate limits
REDIS_CACHE_URL                 cached responses and embeddings
REDIS_HOST, REDIS_PORT,         the same as REDIS_URL in parts (REDIS_HOST is the one that must be there);
REDIS_DB, REDIS_SSL             REDIS_SSL is true or false
REDIS_USERNAME,                 a login for every server above whose URL holds none; the file is read again at
REDIS_PASSWORD or               every connect
REDIS_PASSWORD_FILE
CACHEPOLICY_KEY_PREFIX          what all keys begin with where no document says so (default ``local/core``)
CACHEPOLICY_DEADLINE_MS         longest time that a call to Redis may take (default 100)
POD_NAME                        name of this replica in acknowledgements (default: the host's name)
==============================  ==============================================================================

An empty variable counts as absent. A message names the variable and what is allowed, and never the value of one
that may hold a password.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cachepolicy.keys import KeyLayout
from cachepolicy_runtime.store.endpoint import (
    Address,
    Credentials,
    CredentialSource,
    FileCredentials,
    fixed,
    parse_url,
    read_secret,
)

DEFAULT_PREFIX = "local/core"
_DEFAULT_DEADLINE_MS = 100


class SettingsError(ValueError):
    """A variable cannot be used; the message says which and what is allowed."""


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """A server and where its login comes from."""

    address: Address
    credentials: CredentialSource


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Everything that the runtime takes from its environment.

    ``state`` and ``cache`` are the servers that the environment names; without either, and without
    ``policy_dir``, the runtime works in memory.
    """

    policy_dir: Path | None
    state: RedisTarget | None
    cache: RedisTarget | None
    key_prefix: str
    deadline_s: float
    pod_name: str

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> RuntimeSettings:
        """Raises :class:`SettingsError`."""
        env = {name: value for name, value in environ.items() if value != ""}
        shared = _shared(env)
        return cls(
            policy_dir=Path(env["CACHEPOLICY_DIR"]) if "CACHEPOLICY_DIR" in env else None,
            state=_from_url(env, "REDIS_STATE_URL") or shared,
            cache=_from_url(env, "REDIS_CACHE_URL") or shared,
            key_prefix=_key_prefix(env),
            deadline_s=_number(env, "CACHEPOLICY_DEADLINE_MS", _DEFAULT_DEADLINE_MS, 1, 60_000) / 1000,
            pod_name=_pod_name(env),
        )

    def target(self, url: str) -> RedisTarget:
        """A server that the policy document names, with the login that is mounted beside the document."""
        address, credentials = parse_url(url)
        source = FileCredentials(self.policy_dir) if self.policy_dir is not None else fixed(credentials)
        return RedisTarget(address, source)


def _shared(env: Mapping[str, str]) -> RedisTarget | None:
    if "REDIS_URL" in env and "REDIS_HOST" in env:
        raise SettingsError("REDIS_URL and REDIS_HOST both name a server: set only one of them")
    if "REDIS_HOST" not in env:
        return _from_url(env, "REDIS_URL")
    address = Address(
        host=env["REDIS_HOST"],
        port=_number(env, "REDIS_PORT", 6379, 1, 65535),
        db=_number(env, "REDIS_DB", 0, 0, 1_000_000),
        tls=_truth(env, "REDIS_SSL"),
    )
    return RedisTarget(address, _login(env))


def _from_url(env: Mapping[str, str], name: str) -> RedisTarget | None:
    if name not in env:
        return None
    try:
        address, credentials = parse_url(env[name])
    except ValueError as error:
        raise SettingsError(f"{name} {error}") from None
    return RedisTarget(address, fixed(credentials) if credentials.password else _login(env))


def _login(env: Mapping[str, str]) -> CredentialSource:
    username = env.get("REDIS_USERNAME")
    if "REDIS_PASSWORD_FILE" not in env:
        return fixed(Credentials(username, env.get("REDIS_PASSWORD")))
    if "REDIS_PASSWORD" in env:
        raise SettingsError("REDIS_PASSWORD and REDIS_PASSWORD_FILE are both set: set only one of them")
    path = Path(env["REDIS_PASSWORD_FILE"])
    if read_secret(path) is None:
        raise SettingsError(
            f"REDIS_PASSWORD_FILE names {path}, which cannot be read or is empty: it must hold the password"
        )
    return lambda: Credentials(username, read_secret(path))


def _key_prefix(env: Mapping[str, str]) -> str:
    try:
        return KeyLayout(env.get("CACHEPOLICY_KEY_PREFIX", DEFAULT_PREFIX)).prefix
    except ValueError as error:
        raise SettingsError(f"CACHEPOLICY_KEY_PREFIX: {error}") from None


def _pod_name(env: Mapping[str, str]) -> str:
    """A part of a key and of a member with slashes, so only what a pod's name may hold is kept."""
    return re.sub(r"[^a-zA-Z0-9.-]", "-", env.get("POD_NAME") or socket.gethostname()) or "unnamed"


def _number(env: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = env.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        hint = ""
        if text.startswith("tcp://"):
            hint = (
                " (Kubernetes sets it for a Service of that name: put enableServiceLinks: false in the pod)"
            )
        raise SettingsError(f"{name} must be a whole number from {least} to {most}, not {text[:40]!r}{hint}")
    return int(text)


def _truth(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise SettingsError(f"{name} must be true or false, not {text[:40]!r}")
    return text in ("true", "1")
