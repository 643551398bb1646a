"""TLS to a Redis server: whose certificates are believed, and the one that we show."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from cachepolicy_runtime.store.failures import Refused, reason_of

#: Path, inode, time of change and size of each file, to see a rotation.
_Seen = tuple[tuple[Path, int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files, each optional and looked at again at every connect.

    Attributes:
        ca: authorities that are believed, instead of those of the operating system.
        cert, key: the client certificate (with its chain) and its key.
        optional: a file that is not there counts as not named, as in a mounted directory.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    optional: bool = False

    @classmethod
    def beside(cls, directory: Path) -> TlsFiles:
        """The names that cert-manager and Secrets of the type kubernetes.io/tls have."""
        return cls(directory / "ca.crt", directory / "tls.crt", directory / "tls.key", optional=True)

    def present(self) -> TlsFiles:
        """Without the files that are not there, where that is allowed."""
        if not self.optional:
            return self
        cert = self.cert if _exists(self.cert) and _exists(self.key) else None
        return TlsFiles(self.ca if _exists(self.ca) else None, cert, self.key if cert else None)


class TlsContext:
    """The SSL context of some files, made anew when one of them has changed. Certificates and host names are
    always verified."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen: _Seen | None = None
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """Reads files, so not on the event loop. Raises :class:`Refused` where one cannot be used."""
        files = self._files.present()
        seen = tuple(_look(path) for path in (files.ca, files.cert, files.key))
        if self._context is None or seen != self._seen:
            self._context, self._seen = _context(files), seen
        return self._context


def _context(files: TlsFiles) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.ca)
    except OSError:
        raise Refused("the file of the TLS authorities cannot be read or holds none") from None
    if files.cert is None:
        return context
    try:
        # A password that is never right: an encrypted key must not ask for one at the terminal.
        context.load_cert_chain(files.cert, files.key, password="")
    except (OSError, ValueError) as error:
        told = reason_of(error) if isinstance(error, ssl.SSLError) else ""
        known = "belong together" in told
        raise Refused(
            told if known else "the client certificate or its key cannot be read or is encrypted"
        ) from None
    return context


def _exists(path: Path | None) -> bool:
    return path is not None and path.is_file()


def _look(path: Path | None) -> tuple[Path, int, int, int] | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return (path, status.st_ino, status.st_mtime_ns, status.st_size) if path and status else None
