"""Passwords and keys of one CachePolicy: made once, read back from the live Secrets, never made again without need.

A credential is stored where it is used, so a partial loss is repaired partially: what is left is kept. Only when one
of the two Redis passwords had to be made anew does `generation` change, and through it the pod template, so the pods
roll once onto the new ACL file.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cachepolicy import names

# 256 bits each, written so that it needs no escaping in a URI, a shell or an ACL rule.
TOKEN_BYTES: Final = 32
# What a person may have put into a Secret by hand must still fit a URI and an ACL line unescaped.
_SAFE: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")

TokenSource = Callable[[], str]


def random_token() -> str:
    """256 bits from the operating system, URL-safe."""
    return secrets.token_urlsafe(TOKEN_BYTES)


@dataclass(frozen=True, repr=False)
class Credentials:
    """Everything secret of one CachePolicy. It has no readable repr, so that no log or traceback shows it."""

    operator_password: str
    core_password: str
    cache_hmac_key: str
    admin_token: str
    generation: str
    #: Of a rotation that is under way: the password to come, the hash of the one to go. See rotation.py.
    next_core: str | None = None
    retiring_core: str | None = None
    #: The request that was carried out last, or is being carried out.
    rotation: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(generation={self.generation!r})"

    @classmethod
    def generate(cls, source: TokenSource = random_token) -> Credentials:
        """All new; `source` gives one token per call."""
        return cls(source(), source(), source(), source(), _generation(source))


@dataclass(frozen=True, repr=False)
class FoundCredentials:
    """What the live Secrets hold; None for what is missing or unusable."""

    operator_password: str | None = None
    core_password: str | None = None
    cache_hmac_key: str | None = None
    admin_token: str | None = None
    generation: str | None = None
    next_core: str | None = None
    retiring_core: str | None = None
    rotation: str | None = None

    def __repr__(self) -> str:
        return f"FoundCredentials(missing={self.missing})"

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of what is not there, for an Event."""
        fields = ("operator_password", "core_password", "cache_hmac_key", "admin_token", "generation")
        return tuple(field for field in fields if getattr(self, field) is None)

    @property
    def nothing(self) -> bool:
        """True before the first reconcile, and after all Secrets were deleted."""
        return len(self.missing) == 5

    def complete(self, source: TokenSource = random_token) -> Credentials:
        """These credentials with what is missing made anew.

        `generation` is kept as long as both Redis passwords were found; a lost generation alone gets a new one, which
        costs one roll but never a wrong password.
        """
        kept = self.operator_password and self.core_password and self.generation
        return Credentials(
            operator_password=self.operator_password or source(),
            core_password=self.core_password or self.next_core or source(),
            cache_hmac_key=self.cache_hmac_key or source(),
            admin_token=self.admin_token or source(),
            generation=(kept and self.generation) or _generation(source),
            next_core=self.next_core,
            retiring_core=self.retiring_core,
            rotation=self.rotation,
        )


def found_in(
    redis_auth: Mapping[str, Any] | None,
    core: Mapping[str, Any] | None,
    core_keys: Mapping[str, Any] | None,
) -> FoundCredentials:
    """Read the live Secrets `<cr>-redis-auth`, `<cr>-core` and `<cr>-core-keys`; None for a missing one."""
    return FoundCredentials(
        operator_password=_entry(redis_auth, names.FILE_OPERATOR_PASSWORD),
        core_password=_entry(core, names.FILE_PASSWORD),
        cache_hmac_key=_entry(core_keys, names.FILE_HMAC_KEY),
        admin_token=_entry(core_keys, names.FILE_ADMIN_TOKEN),
        generation=_entry(redis_auth, names.FILE_GENERATION),
        next_core=_entry(redis_auth, names.FILE_NEXT_CORE),
        retiring_core=_entry(redis_auth, names.FILE_RETIRING_CORE),
        rotation=_text(redis_auth, names.FILE_ROTATION),
    )


def _entry(secret: Mapping[str, Any] | None, key: str) -> str | None:
    value = _text(secret, key)
    return value if value and set(value) <= _SAFE else None


def _text(secret: Mapping[str, Any] | None, key: str) -> str | None:
    encoded = ((secret or {}).get("data") or {}).get(key)
    if not isinstance(encoded, str):
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode() or None
    except (binascii.Error, UnicodeDecodeError):
        return None


def _generation(source: TokenSource) -> str:
    # Shown in the pod template, so it is a short name of its own and tells nothing about a password.
    return source()[:12]
