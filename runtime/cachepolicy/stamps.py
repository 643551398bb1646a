"""Purge stamps: how a scope of the cache is emptied in O(1), without a scan and without a flush.

A stamp is an opaque value of one scope (all, a kind, a tenant, a provider, a model). Every entry stores the
combined stamp of the scopes it belongs to; once one of these stamps changes, the entry is a miss, and
eviction or expiry frees its memory. Two sources count together: ``spec.purge`` in the policy document and
the hash ``P:stamps`` in Redis, which ``POST /cache/clear`` writes.

The field ``all`` always exists: a process that finds it missing makes it anew (``HSETNX``, server time and a
nonce). If the hash was lost, everything cached before is a miss; nothing purged revives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cachepolicy.caches import Purge
from cachepolicy.keys import encode

ALL = "all"


@dataclass(frozen=True)
class Scope:
    """What to purge, or where an entry belongs. None means: not narrowed by this."""

    kind: str | None = None
    """``responses`` or ``embeddings``."""
    tenant: str | None = None
    provider: str | None = None
    model: str | None = None

    @property
    def stamp_field(self) -> str:
        """The field of the hash that stands for exactly this combination."""
        parts = [
            f"{name}={encode(value)}"
            for name, value in (
                ("kind", self.kind),
                ("tenant", self.tenant),
                ("provider", self.provider),
                ("model", self.model),
            )
            if value is not None
        ]
        return "&".join(parts) or ALL


def covering_scopes(entry: Scope) -> tuple[Scope, ...]:
    """Every scope that contains ``entry``: all combinations of its parts, each either kept or left open."""
    scopes = [Scope()]
    for name in ("kind", "tenant", "provider", "model"):
        value = getattr(entry, name)
        if value is not None:
            scopes += [Scope(**{**_parts(scope), name: value}) for scope in scopes]
    return tuple(scopes)


def combine(entry: Scope, stamps: Mapping[str, str], purge: Purge | None) -> str:
    """The combined stamp of ``entry``: 16 hex digits over every stamp that covers it.

    ``stamps`` is the hash as it was last read; ``purge`` comes from the policy document.
    """
    found = {
        scope.stamp_field: stamps[scope.stamp_field]
        for scope in covering_scopes(entry)
        if scope.stamp_field in stamps
    }
    declared = _declared(entry, purge) if purge is not None else {}
    content = json.dumps([found, declared], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _declared(entry: Scope, purge: Purge) -> dict[str, str]:
    declared = {
        "all": purge.all,
        "provider": purge.providers.get(entry.provider) if entry.provider else None,
    }
    return {name: value for name, value in declared.items() if value is not None}


def _parts(scope: Scope) -> dict[str, str | None]:
    return {
        "kind": scope.kind,
        "tenant": scope.tenant,
        "provider": scope.provider,
        "model": scope.model,
    }
