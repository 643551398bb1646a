"""What this process remembers of sessions, for the time while the store is away. Pure; times in milliseconds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

#: How long a copy serves after the store last confirmed it.
SERVES_MS = 5 * 60_000
#: What a copy takes besides its content, roughly.
_OVERHEAD = 512


class Copy(NamedTuple):
    """One session as last seen.

    Attributes:
        data, version: content, and the stored version it is based on (0: never stored).
        created_ms, used_ms, confirmed_ms: this process's clock.
        epoch: epoch of the store that confirmed it; empty when none did.
        owner, label: key of the owner's list, and the session's name there.
        edited: changed while the store was away.
    """

    data: bytes
    version: int
    created_ms: int
    used_ms: int
    confirmed_ms: int
    epoch: str = ""
    owner: str | None = None
    label: str | None = None
    edited: bool = False

    def alive(self, now_ms: int, idle_ms: int, absolute_ms: int) -> bool:
        return now_ms - self.used_ms < idle_ms and now_ms - self.created_ms < absolute_ms

    def serves(self, now_ms: int) -> bool:
        """Whether it is recent enough to be shown without the store."""
        return now_ms - self.confirmed_ms < SERVES_MS


@dataclass(slots=True)
class Copies:
    """The copies, bounded by their bytes; the one used longest ago goes first."""

    max_bytes: int = 16 << 20
    _bytes: int = 0
    _copies: OrderedDict[str, Copy] = field(default_factory=OrderedDict)

    def get(self, key: str) -> Copy | None:
        return self._copies.get(key)

    def put(self, key: str, copy: Copy) -> None:
        before = self._copies.pop(key, None)
        self._copies[key] = copy
        if before is None:
            self._bytes += len(copy.data) + _OVERHEAD
        else:
            self._bytes += len(copy.data) - len(before.data)
        while self._bytes > self.max_bytes:
            self.drop(next(iter(self._copies)))

    def drop(self, key: str) -> None:
        copy = self._copies.pop(key, None)
        if copy is not None:
            self._bytes -= len(copy.data) + _OVERHEAD

    def drop_owned(self, index: str, keep: str | None = None) -> tuple[str, ...]:
        """Forget the sessions of an owner but one; returns their keys."""
        keys = tuple(key for key, copy in self._copies.items() if copy.owner == index and key != keep)
        for key in keys:
            self.drop(key)
        return keys


@dataclass(slots=True)
class Tombstones:
    """What was to be destroyed while the store was away, to be destroyed before anything is read from it or
    merged into it again. Bounded: the oldest goes first.

    Attributes:
        keys: sessions, each with the key of the list in which it has to be; None where that does not matter.
        indexes: owners' lists, each with the key of a session that stays; None where all of them go.
    """

    max_entries: int = 10_000
    keys: OrderedDict[str, str | None] = field(default_factory=OrderedDict)
    indexes: OrderedDict[str, str | None] = field(default_factory=OrderedDict)

    def __bool__(self) -> bool:
        return bool(self.keys or self.indexes)

    def add_key(self, key: str, owner: str | None = None) -> None:
        self._add(self.keys, key, owner)

    def add_index(self, index: str, keep: str | None = None) -> None:
        self._add(self.indexes, index, keep)

    def _add(self, entries: OrderedDict[str, str | None], name: str, condition: str | None) -> None:
        if entries.get(name, condition) is None:
            condition = None  # what was to go without any condition still goes
        entries[name] = condition
        while len(entries) > self.max_entries:
            entries.popitem(last=False)
