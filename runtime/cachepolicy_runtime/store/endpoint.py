"""Where a Redis server is and how to log in to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from cachepolicy.names import FILE_PASSWORD, FILE_USERNAME, REDIS_PORT

SENTINEL_PORT = 26379
FORMS = (
    "redis://host:port/db, rediss://host:port/db (TLS), unix:///path/to/socket, "
    "redis+sentinel://host:port,host:port/name/db or redis+cluster://host:port,host:port "
    "(rediss+… for TLS)"
)

HostPort = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login; both None without authentication. Its repr shows neither."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


#: Asked at every connect and, while calls are made, every second, so that a rotated credential is used without
#: a restart.
CredentialSource = Callable[[], Credentials]


class Topology(Enum):
    """Whether an address is a server's own, or that of who knows the servers."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Address:
    """One server, or whom to ask for it.

    Attributes:
        host, port, path: of the one server; ``path`` of a unix socket.
        db: number of the database.
        tls: whether connections are encrypted, to the Sentinels too.
        topology: with any other than STANDALONE, ``seeds`` say whom to ask.
        seeds: Sentinels, or some nodes of a cluster.
        service: the name under which the Sentinels know the primary.
    """

    host: str = ""
    port: int = REDIS_PORT
    path: str = ""
    db: int = 0
    tls: bool = False
    topology: Topology = Topology.STANDALONE
    seeds: tuple[HostPort, ...] = ()
    service: str = ""

    @property
    def clustered(self) -> bool:
        return self.topology is Topology.CLUSTER


def parse_url(url: str) -> tuple[Address, Credentials]:
    """Read a Redis URL. Raises ``ValueError`` with the allowed forms and never with the URL itself."""
    try:
        parts = urlsplit(url)
        family, _, topology = parts.scheme.partition("+")
        credentials = _credentials(parts)
        if topology and family in ("redis", "rediss") and not parts.query:
            return _of_many(parts, Topology(topology), family == "rediss"), credentials
        if parts.scheme == "unix" and parts.path and not parts.hostname:
            return Address(path=unquote(parts.path), db=_db(parts.query.removeprefix("db="))), credentials
        if parts.scheme in ("redis", "rediss") and parts.hostname and not parts.query:
            return _of_one(parts), credentials
    except _DatabaseError:
        raise
    except ValueError:
        pass
    raise ValueError(f"is not a Redis URL; use {FORMS}")


class _DatabaseError(ValueError):
    pass


def _credentials(parts: SplitResult) -> Credentials:
    return Credentials(
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
    )


def _of_one(parts: SplitResult) -> Address:
    return Address(
        host=parts.hostname or "",
        port=parts.port or REDIS_PORT,
        db=_db(parts.path.strip("/")),
        tls=parts.scheme == "rediss",
    )


def _of_many(parts: SplitResult, topology: Topology, tls: bool) -> Address:
    default = SENTINEL_PORT if topology is Topology.SENTINEL else REDIS_PORT
    hosts = parts.netloc.rpartition("@")[2]
    seeds = tuple(_host_port(text, default) for text in hosts.split(","))
    if topology is Topology.CLUSTER:
        if parts.path.strip("/") not in ("", "0"):
            raise _DatabaseError("names a database, and a Redis Cluster has only the database 0")
        return Address(tls=tls, topology=topology, seeds=seeds)
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError
    return Address(db=_db(db), tls=tls, topology=topology, seeds=seeds, service=unquote(service))


def _host_port(text: str, default: int) -> HostPort:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or default


def _db(text: str) -> int:
    if text and not text.isdecimal():
        raise _DatabaseError(f"names a database that is not a number; use {FORMS}")
    return int(text or 0)


def fixed(credentials: Credentials) -> CredentialSource:
    return lambda: credentials


NO_LOGIN = fixed(Credentials())


@dataclass(frozen=True, slots=True)
class FileCredentials:
    """The files ``username`` and ``password`` of a mounted directory, read at each call; absent means none."""

    directory: Path

    def __call__(self) -> Credentials:
        return Credentials(
            read_secret(self.directory / FILE_USERNAME), read_secret(self.directory / FILE_PASSWORD)
        )


def read_secret(path: Path) -> str | None:
    """A mounted secret without its trailing line break; None where there is none to read."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n") or None
    except OSError:
        return None
