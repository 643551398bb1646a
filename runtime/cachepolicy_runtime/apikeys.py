"""Who calls the reference Core: by ``Authorization: Bearer``, as OpenAI's clients send a key, or by ``x-api-key``, as
Anthropic's do.

The file holds who owns which key, and no key: ``{"<sha256 of the key, hex>": {"tenant": "acme", "user": "alice"}}``
(``user`` may be absent). It is read again when it changes.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cachepolicy.identity import Identity
from cachepolicy_runtime.asgi.types import Scope, bearer, header
from cachepolicy_runtime.secrets import WatchedFile

_log = logging.getLogger("cachepolicy.apikeys")

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Of the digest's 64 digits: enough to tell keys apart in a limit or a log, useless to whoever reads it.
_ID_DIGITS = 16


class ApiKeysError(ValueError):
    """The file cannot be used; the message names it and what it must hold, never what is in it."""


class _Owner(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tenant: str = Field(min_length=1, max_length=256)
    user: str | None = Field(default=None, min_length=1, max_length=256)


_FILE = TypeAdapter(dict[str, _Owner])


class ApiKeys:
    """Who owns a key. Without a file nobody is let in."""

    def __init__(self, file: WatchedFile | None) -> None:
        self._file = file
        self._content: bytes | None = None
        self._owners: Mapping[bytes, Identity] = {}

    @classmethod
    def from_path(cls, path: str | None) -> ApiKeys:
        """The keys in the file at ``path``; raises :class:`ApiKeysError` where it cannot be used."""
        if not path:
            _log.warning("nobody can log in: CACHEPOLICY_API_KEYS_FILE names no file with API keys")
            return cls(None)
        file = WatchedFile(Path(path))
        content = file.read()
        if content is None:
            raise ApiKeysError(f"CACHEPOLICY_API_KEYS_FILE names {path}, which cannot be read or is empty")
        keys = cls(file)
        keys._take(content)
        return keys

    def identify(self, scope: Scope) -> Identity | None:
        """The owner of the request's key; None without one or with one that nobody knows."""
        presented = bearer(scope) or header(scope, b"x-api-key")
        if not presented:
            return None
        self._follow()
        digest = hashlib.sha256(presented).hexdigest().encode()
        # All are compared, so that the time taken tells nothing about which digests exist.
        found = [owner for known, owner in self._owners.items() if hmac.compare_digest(known, digest)]
        return found[0] if found else None

    def _follow(self) -> None:
        """Take the file's new content; what cannot be used changes nothing and is logged once."""
        content = self._file.read() if self._file is not None else None
        if content is None or content == self._content:
            return
        try:
            self._take(content)
        except ApiKeysError as error:
            self._content = content
            _log.error("%s; the keys read before stay valid", error)

    def _take(self, content: bytes) -> None:
        self._owners = _read(content, self._file.path if self._file else Path())
        self._content = content


def _read(content: bytes, path: Path) -> dict[bytes, Identity]:
    try:
        owners = _FILE.validate_python(orjson.loads(content))
    except orjson.JSONDecodeError:
        raise ApiKeysError(f"{path} is not JSON") from None
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"][1:])
        raise ApiKeysError(
            f"{path} must hold an object of sha256 (hex) → {{tenant, user}}; wrong: {field or 'the whole'}"
        ) from None
    if not all(_DIGEST.fullmatch(digest) for digest in owners):
        raise ApiKeysError(f"{path} must name each key by the 64 lower-case hex digits of its SHA-256")
    return {
        digest.encode(): Identity(owner.tenant, owner.user, digest[:_ID_DIGITS])
        for digest, owner in owners.items()
    }
