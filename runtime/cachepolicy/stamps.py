"""Purge stamps: how a scope of the cache is emptied in O(1), without a scan and without a flush.

A stamp is an opaque value of one scope (all, a kind, a tenant, a provider, a model, a tag, or any of these
together). Every entry stores the combined stamp of the scopes it belongs to; once one of these stamps changes, the
entry is a miss, and eviction or expiry frees its memory. Two sources count together: ``spec.purge`` in the policy
document and the hash ``P:stamps`` in Redis, which ``POST /cache/clear`` writes.

A field of the hash is ``all`` or names its parts in the order of :data:`PARTS`, such as ``tenant=acme&tag=faq``.
The field ``all`` always exists: a process that finds it missing makes it anew. If the hash was lost, everything
cached before is a miss; nothing purged revives.

**The hash is bounded.** Renewing a scope drops the fields of all scopes within it. That revives nothing: an entry
within a dropped scope is within the renewed one too, and since then every combined stamp of that entry has in it a
value that none before had. At :data:`MAX_FIELDS` all fields that name the same parts (their *shape*) give way to one
field with ``*`` for each value, which covers every entry that has those parts; the same holds for it. Age is no
reason to drop a field: how long an entry may live is not known, for policies change and calls take their time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cachepolicy.keys import encode

if TYPE_CHECKING:  # purge.py names scopes by this module
    from cachepolicy.purge import Purge

ALL = "all"
#: The parts of a scope, in the order in which a field names them.
PARTS = ("kind", "tenant", "provider", "model", "tag")
#: Where the hash keeps the revision of the last document whose changed values were turned into stamps.
DOCUMENT = "document"
#: A full hash is read and renewed in a fraction of a millisecond of the server's time.
MAX_FIELDS = 128
MAX_TAGS = 16
MAX_TAG_LENGTH = 64

_VALUE = re.compile(r"=[^&]*")
_MOMENT = re.compile(r"(\d+)\.(\d+)-")


@dataclass(frozen=True)
class Scope:
    """What to purge, or where an entry belongs. None means: not narrowed by this.

    An entry may carry several tags; a scope to be purged names at most one.
    """

    kind: str | None = None
    """``responses`` or ``embeddings``."""
    tenant: str | None = None
    provider: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def stamp_field(self) -> str:
        """The field of the hash that stands for exactly this combination; not for several tags."""
        if len(self.tags) > 1:
            raise ValueError("a scope to be purged names at most one tag")
        parts = zip(
            PARTS, (self.kind, self.tenant, self.provider, self.model, *(self.tags or (None,))), strict=True
        )
        return "&".join(f"{name}={encode(value)}" for name, value in parts if value is not None) or ALL


def tags_of(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags of an entry, each once and in order; raises ``ValueError`` for too many or a wrong one."""
    found = tuple(sorted(set(tags)))
    if len(found) > MAX_TAGS:
        raise ValueError(f"an entry has at most {MAX_TAGS} tags, not {len(found)}")
    if not all(0 < len(tag) <= MAX_TAG_LENGTH for tag in found):
        raise ValueError(f"a tag has 1 to {MAX_TAG_LENGTH} characters")
    return found


def shapes_of(stamps: Mapping[str, str]) -> frozenset[str]:
    """Which parts the fields name: ``tenant=*&tag=*`` for ``tenant=acme&tag=faq``. At most 32."""
    return frozenset(_VALUE.sub("=*", field) for field in stamps)


def covering_fields(entry: Scope, shapes: Iterable[str]) -> Iterator[str]:
    """The fields of these shapes that cover ``entry``."""
    for shape in shapes:
        names = _names(shape)
        values: list[str | None] = [getattr(entry, name) for name in names if name != "tag"]
        tags = entry.tags if "tag" in names else (None,)
        if None in values or not tags:
            continue
        for tag in tags:
            given = zip(names, [*values, *([tag] if tag is not None else [])], strict=True)
            yield "&".join(f"{name}={encode(value)}" for name, value in given if value is not None) or ALL
        if names:
            yield shape


@lru_cache(maxsize=64)
def _names(shape: str) -> tuple[str, ...]:
    return tuple(name for name in PARTS if f"{name}=*" in shape.split("&"))


def within(field: str, wider: str) -> bool:
    """Whether the scope of ``field`` lies in the scope of ``wider``."""
    return field != DOCUMENT and (wider == ALL or set(wider.split("&")) <= set(field.split("&")))


def combine(
    entry: Scope, stamps: Mapping[str, str], purge: Purge | None, shapes: frozenset[str] | None = None
) -> str:
    """The combined stamp of ``entry``: 16 hex digits over every stamp that covers it.

    ``stamps`` is the hash as it was last read, and ``shapes`` its shapes where they are known already; ``purge``
    comes from the policy document.
    """
    known = shapes_of(stamps) if shapes is None else shapes
    found = {field: stamps[field] for field in covering_fields(entry, known) if field in stamps}
    content = json.dumps([found, _declared(entry, purge)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _declared(entry: Scope, purge: Purge | None) -> dict[str, str]:
    if purge is None:
        return {}
    declared = {
        "all": purge.all,
        "provider": purge.providers.get(entry.provider) if entry.provider else None,
        "kind": getattr(purge.kinds, entry.kind) if entry.kind else None,
        "tenant": purge.tenants.get(entry.tenant) if entry.tenant else None,
        "model": purge.models.get(entry.model) if entry.model else None,
        **{f"tag={tag}": purge.tags.get(tag) for tag in entry.tags},
    }
    return {name: value for name, value in declared.items() if value is not None}


def newest(stamps: Mapping[str, str]) -> int:
    """When the newest of them was made, in microseconds of the server's clock; 0 where that cannot be told.

    A store whose newest stamp is older than one that it gave before has lost purges (an append-only file that
    ends a second too early, a replica that became primary too soon).
    """
    moments = (match for value in stamps.values() if (match := _MOMENT.match(value)))
    return max((int(match[1]) * 1_000_000 + int(match[2]) for match in moments), default=0)
