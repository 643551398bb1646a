"""What this process remembers of sessions, for the time while the store is away. Pure; times in milliseconds."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

#: How long a copy serves after the store last confirmed it.
SERVES_MS = 5 * 60_000


@dataclass(frozen=True, slots=True)
class Copy:
    """One session as last seen.

    Attributes:
        data, version: content, and the stored version it is based on (0: never stored).
        created_ms, used_ms, confirmed_ms: this process's clock.
        epoch: epoch of the store that confirmed it; empty when none did.
        index: key of the owner's list, as far as known here.
        edited: changed while the store was away.
    """

    data: bytes
    version: int
    created_ms: int
    used_ms: int
    confirmed_ms: int
    epoch: str = ""
    index: str | None = None
    edited: bool = False

    def alive(self, now_ms: int, idle_ms: int, absolute_ms: int) -> bool:
        return now_ms - self.used_ms < idle_ms and now_ms - self.created_ms < absolute_ms

    def serves(self, now_ms: int) -> bool:
        """Whether it is recent enough to be shown without the store."""
        return now_ms - self.confirmed_ms < SERVES_MS


@dataclass(slots=True)
class Copies:
    """The copies, bounded by the bytes of their content; the one used longest ago goes first."""

    max_bytes: int = 16 << 20
    _bytes: int = 0
    _copies: OrderedDict[str, Copy] = field(default_factory=OrderedDict)

    def get(self, key: str) -> Copy | None:
        return self._copies.get(key)

    def put(self, key: str, copy: Copy) -> None:
        self.drop(key)
        self._copies[key] = copy
        self._bytes += len(copy.data)
        while self._bytes > self.max_bytes:
            self.drop(next(iter(self._copies)))

    def drop(self, key: str) -> None:
        copy = self._copies.pop(key, None)
        if copy is not None:
            self._bytes -= len(copy.data)

    def drop_owned(self, index: str) -> tuple[str, ...]:
        """Forget the sessions of an owner; returns their keys."""
        keys = tuple(key for key, copy in self._copies.items() if copy.index == index)
        for key in keys:
            self.drop(key)
        return keys


@dataclass(slots=True)
class Tombstones:
    """Sessions and owners that were to be destroyed while the store was away, to be destroyed before anything
    is read from it or merged into it again. Bounded: the oldest goes first."""

    max_entries: int = 10_000
    keys: OrderedDict[str, None] = field(default_factory=OrderedDict)
    indexes: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def __bool__(self) -> bool:
        return bool(self.keys or self.indexes)

    def add_key(self, key: str) -> None:
        self._add(self.keys, key)

    def add_index(self, index: str) -> None:
        self._add(self.indexes, index)

    def _add(self, entries: OrderedDict[str, None], name: str) -> None:
        entries[name] = None
        while len(entries) > self.max_entries:
            entries.popitem(last=False)
