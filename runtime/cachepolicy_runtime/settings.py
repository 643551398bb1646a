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
REDIS_SENTINEL_USERNAME,        a login for the Sentinels of redis+sentinel:// URLs, which otherwise need none
REDIS_SENTINEL_PASSWORD or
REDIS_SENTINEL_PASSWORD_FILE
REDIS_TLS_CA_FILE               authorities to believe instead of those of the system, for rediss:// URLs
REDIS_TLS_CERT_FILE,            certificate and key to show to the servers; all three are read again at every
REDIS_TLS_KEY_FILE              connect
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
from dataclasses import dataclass, field
from pathlib import Path

from cachepolicy.keys import KeyLayout
from cachepolicy_runtime.store.endpoint import (
    NO_LOGIN,
    Address,
    Credentials,
    CredentialSource,
    FileCredentials,
    fixed,
    parse_url,
    read_secret,
)
from cachepolicy_runtime.store.tls import TlsFiles

DEFAULT_PREFIX = "local/core"
_DEFAULT_DEADLINE_MS = 100


class SettingsError(ValueError):
    """A variable cannot be used; the message says which and what is allowed."""


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """A server, and where its login, its Sentinels' login and the certificates come from."""

    address: Address
    credentials: CredentialSource
    sentinel_credentials: CredentialSource = NO_LOGIN
    tls: TlsFiles = field(default_factory=TlsFiles)


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Everything that the runtime takes from its environment.

    ``state`` and ``cache`` are the servers that the environment names; without either, and without
    ``policy_dir``, the runtime works in memory. ``tls`` is None where no variable names a file.
    """

    policy_dir: Path | None
    state: RedisTarget | None
    cache: RedisTarget | None
    key_prefix: str
    deadline_s: float
    pod_name: str
    sentinel_credentials: CredentialSource
    tls: TlsFiles | None

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> RuntimeSettings:
        """Raises :class:`SettingsError`."""
        env = {name: value for name, value in environ.items() if value != ""}
        shared = _shared(env)
        return cls(
            policy_dir=Path(env["CACHEPOLICY_DIR"]) if "CACHEPOLICY_DIR" in env else None,
            state=_no_cluster(_from_url(env, "REDIS_STATE_URL") or shared),
            cache=_from_url(env, "REDIS_CACHE_URL") or shared,
            key_prefix=_key_prefix(env),
            deadline_s=_number(env, "CACHEPOLICY_DEADLINE_MS", _DEFAULT_DEADLINE_MS, 1, 60_000) / 1000,
            pod_name=_pod_name(env),
            sentinel_credentials=_sentinel_login(env),
            tls=_tls(env),
        )

    def target(self, url: str) -> RedisTarget:
        """A server that the policy document names, with the login and the certificates that are mounted beside
        the document; variables that name certificates come first."""
        address, credentials = parse_url(url)
        source = FileCredentials(self.policy_dir) if self.policy_dir is not None else fixed(credentials)
        beside = TlsFiles.beside(self.policy_dir) if self.policy_dir is not None else TlsFiles()
        return RedisTarget(address, source, self.sentinel_credentials, self.tls or beside)


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
    return _target(env, address, _login(env))


def _from_url(env: Mapping[str, str], name: str) -> RedisTarget | None:
    if name not in env:
        return None
    try:
        address, credentials = parse_url(env[name])
    except ValueError as error:
        raise SettingsError(f"{name} {error}") from None
    return _target(env, address, fixed(credentials) if credentials.password else _login(env))


def _target(env: Mapping[str, str], address: Address, credentials: CredentialSource) -> RedisTarget:
    return RedisTarget(address, credentials, _sentinel_login(env), _tls(env) or TlsFiles())


def _no_cluster(target: RedisTarget | None) -> RedisTarget | None:
    if target is not None and target.address.clustered:
        raise SettingsError(
            "REDIS_STATE_URL (or REDIS_URL without it) names a Redis Cluster, which cannot keep sessions and rate "
            "limits: name a server or Sentinels there, and the cluster in REDIS_CACHE_URL"
        )
    return target


def _login(env: Mapping[str, str]) -> CredentialSource:
    return _login_of(env, "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE")


def _sentinel_login(env: Mapping[str, str]) -> CredentialSource:
    return _login_of(
        env, "REDIS_SENTINEL_USERNAME", "REDIS_SENTINEL_PASSWORD", "REDIS_SENTINEL_PASSWORD_FILE"
    )


def _login_of(env: Mapping[str, str], user: str, password: str, file: str) -> CredentialSource:
    username = env.get(user)
    if file not in env:
        return fixed(Credentials(username, env.get(password)))
    if password in env:
        raise SettingsError(f"{password} and {file} are both set: set only one of them")
    path = Path(env[file])
    if read_secret(path) is None:
        raise SettingsError(
            f"{file} names {path}, which cannot be read or is empty: it must hold the password"
        )
    return lambda: Credentials(username, read_secret(path))


def _tls(env: Mapping[str, str]) -> TlsFiles | None:
    names = ("REDIS_TLS_CA_FILE", "REDIS_TLS_CERT_FILE", "REDIS_TLS_KEY_FILE")
    paths = [Path(env[name]) if name in env else None for name in names]
    for name, path in zip(names, paths, strict=True):
        if path is not None and not path.is_file():
            raise SettingsError(f"{name} names {path}, which is no file")
    ca, cert, key = paths
    if key is not None and cert is None:
        raise SettingsError("REDIS_TLS_KEY_FILE is the key of a certificate: set REDIS_TLS_CERT_FILE too")
    return TlsFiles(ca, cert, key) if ca or cert else None


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
