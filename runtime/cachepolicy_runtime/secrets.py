"""Secrets from mounted files: read again when they change, the last good value kept.

Kubernetes swaps a mounted Secret by a symbolic link, so a file is looked at by its path each time, at most
once a second. No value is ever part of a log line, an exception or a repr.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from cachepolicy_runtime.keys import CacheSecret

_log = logging.getLogger("cachepolicy.secrets")

CHECK_SECONDS = 1.0
#: 128 bits, in whatever spelling.
MIN_KEY_BYTES = 16
_MAX_FILE_BYTES = 1024 * 1024


class SecretError(ValueError):
    """A secret's file cannot be used; the message names the file and what it must hold, never its content."""


class WatchedFile:
    """The content of a small file without its trailing line break; None while there is none."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.monotonic, every_s: float = CHECK_SECONDS
    ) -> None:
        self.path = path
        self._clock = clock
        self._every_s = every_s
        self._next_look = float("-inf")
        self._seen: tuple[int, int, int] | None = None
        self._content: bytes | None = None

    def read(self) -> bytes | None:
        """The current content, looked at again once a second; a file that cannot be read counts as absent."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + self._every_s
            self._look()
        return self._content

    def _look(self) -> None:
        try:
            status = self.path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._seen:
                with self.path.open("rb") as file:
                    self._content = file.read(_MAX_FILE_BYTES).rstrip(b"\r\n") or None
                self._seen = seen
        except OSError:
            self._seen, self._content = None, None


class CacheSecretSource:
    """The cache's secret from the first of its files that exists, else a random one of this process."""

    def __init__(self, files: tuple[WatchedFile, ...]) -> None:
        self._files = files
        self._random = secrets.token_bytes(32)
        self._raw: bytes | None = None
        self._current: CacheSecret | None = None
        self._refused: bytes | None = None

    @property
    def shared(self) -> bool:
        """Whether other replicas can have the same secret, and so the same cache."""
        return self._usable() is not None

    def __call__(self) -> CacheSecret:
        raw = self._usable() or self._kept()
        if self._current is None or raw != self._raw:
            self._raw, self._current = raw, CacheSecret.derive(raw)
            self._tell(raw)
        return self._current

    def _kept(self) -> bytes:
        """A file that went away for a moment does not empty the cache."""
        return self._raw or self._random

    def _usable(self) -> bytes | None:
        for file in self._files:
            content = file.read()
            if content is None:
                continue
            if len(content) >= MIN_KEY_BYTES:
                return content
            if content != self._refused:
                self._refused = content
                _log.error("%s is not used: an HMAC key has at least %d bytes", file.path, MIN_KEY_BYTES)
        return None

    def _tell(self, raw: bytes) -> None:
        if raw is self._random:
            _log.warning(
                "no HMAC key file: the caches use a key of this process alone and are not shared with other replicas; "
                "a CachePolicy brings the key, or name a file in CACHE_HMAC_KEY_FILE"
            )
        else:
            _log.info(
                "the caches use the HMAC key that was mounted and are shared with all replicas that have it"
            )


class AdminToken:
    """Checks the token that ``POST /cache/clear``, ``/warm`` and ``/explain`` ask for."""

    def __init__(self, files: tuple[WatchedFile, ...]) -> None:
        self._files = files

    @property
    def configured(self) -> bool:
        return self._token() is not None

    def accepts(self, presented: bytes) -> bool:
        """Constant-time comparison; False while no token is configured."""
        token = self._token()
        return token is not None and hmac.compare_digest(token, presented)

    def _token(self) -> bytes | None:
        return next((content for file in self._files if (content := file.read()) is not None), None)


def required_file(variable: str, value: str) -> WatchedFile:
    """The file that an environment variable names; raises :class:`SecretError` when it cannot be read."""
    file = WatchedFile(Path(value))
    if file.read() is None:
        raise SecretError(
            f"{variable} names {value}, which cannot be read or is empty: it must hold the secret"
        )
    return file
