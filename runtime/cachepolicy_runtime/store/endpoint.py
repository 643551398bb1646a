"""Where a Redis server is and how to log in to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from cachepolicy.names import FILE_PASSWORD, FILE_USERNAME, REDIS_PORT

FORMS = "redis://host:port/db, rediss://host:port/db or unix:///path/to/socket"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login; both None without authentication. Its repr shows neither."""

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


#: Asked at every connect, so that a rotated credential is used without a restart.
CredentialSource = Callable[[], Credentials]


@dataclass(frozen=True, slots=True)
class Address:
    """One server: ``path`` of a unix socket, or ``host`` and ``port``."""

    host: str = ""
    port: int = REDIS_PORT
    path: str = ""
    db: int = 0
    tls: bool = False


def parse_url(url: str) -> tuple[Address, Credentials]:
    """Read a Redis URL. Raises ``ValueError`` with the allowed forms and never with the URL itself."""
    try:
        parts = urlsplit(url)
        port = parts.port or REDIS_PORT
    except ValueError:
        raise ValueError(f"is not a Redis URL; use {FORMS}") from None
    credentials = Credentials(
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
    )
    if parts.scheme == "unix" and parts.path and not parts.hostname:
        return Address(path=unquote(parts.path), db=_db(parts.query.removeprefix("db="))), credentials
    if parts.scheme in ("redis", "rediss") and parts.hostname and not parts.query:
        return _tcp(parts, port), credentials
    raise ValueError(f"is not a Redis URL; use {FORMS}")


def _tcp(parts: SplitResult, port: int) -> Address:
    return Address(
        host=parts.hostname or "", port=port, db=_db(parts.path.strip("/")), tls=parts.scheme == "rediss"
    )


def _db(text: str) -> int:
    if text and not text.isdecimal():
        raise ValueError(f"names a database that is not a number; use {FORMS}")
    return int(text or 0)


def fixed(credentials: Credentials) -> CredentialSource:
    return lambda: credentials


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
