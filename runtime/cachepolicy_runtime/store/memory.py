"""The other three ports in this process: for a Core without Redis, and while Redis is away. All bounded."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence

from cachepolicy.acknowledgement import LIFETIME_MS
from cachepolicy.stamps import ALL, MAX_FIELDS, within
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.store.memory_sessions import MemorySessionStore, monotonic_ms
from cachepolicy_runtime.store.port import (
    Beat,
    CacheItem,
)
from cachepolicy_runtime.store.server_info import ServerFigures

__all__ = ["MemoryCacheStore", "MemoryControlStore", "MemoryLimitStore", "MemorySessionStore", "monotonic_ms"]


#: What an entry takes beside its key and value, so that many small ones are bounded as few large ones are.
_ENTRY_BYTES = 256


class MemoryCacheStore:
    """Bounded by the bytes of its entries; at the bound the value used longest ago is dropped."""

    def __init__(self, now_ms: Callable[[], int] = monotonic_ms, max_bytes: int = 64 << 20) -> None:
        self._now_ms = now_ms
        self._max_bytes = max_bytes
        self._bytes = 0
        self._values: OrderedDict[str, tuple[bytes, int]] = OrderedDict()

    async def get(self, key: str) -> bytes | None:
        found = self._values.get(key)
        if found is None:
            return None
        value, expires_ms = found
        if expires_ms <= self._now_ms():
            self._remove(key)
            return None
        self._values.move_to_end(key)
        return value

    async def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        return [await self.get(key) for key in keys]

    async def put(self, key: str, value: bytes, ttl_ms: int) -> None:
        self._remove(key)
        size = _size(key, value)
        if size > self._max_bytes:
            return
        self._values[key] = (value, self._now_ms() + ttl_ms)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._values)))

    async def mput(self, entries: Sequence[CacheItem]) -> None:
        for entry in entries:
            await self.put(entry.key, entry.value, entry.ttl_ms)

    async def delete(self, *keys: str) -> None:
        for key in keys:
            self._remove(key)

    def figures(self) -> ServerFigures:
        return ServerFigures(len(self._values), self._bytes, self._max_bytes)

    def _remove(self, key: str) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self._bytes -= _size(key, found[0])


def _size(key: str, value: bytes) -> int:
    return _ENTRY_BYTES + len(key) + len(value)


class MemoryControlStore:
    """Control keys of one process: no operator reads them, and no other process shares them."""

    def __init__(self, now_ms: Callable[[], int] = monotonic_ms) -> None:
        self._now_ms = now_ms
        self._epoch = secrets.token_hex(8)
        self._stamps = {ALL: secrets.token_hex(8)}
        self._revision = ""
        self._members: dict[str, int] = {}
        self._listeners: set[asyncio.Event] = set()

    async def stamps(self, *, seen: int = 0) -> dict[str, str]:
        return dict(self._stamps)

    async def set_stamps(self, fields: Sequence[str], *, seen: int = 0, revision: str = "") -> dict[str, str]:
        if revision:
            fields, self._revision = fields if revision != self._revision else (), revision
        for field in fields:
            self._stamps = {other: kept for other, kept in self._stamps.items() if not within(other, field)}
            self._stamps[field] = secrets.token_hex(8)
        if len(self._stamps) > MAX_FIELDS:
            self._stamps = {ALL: secrets.token_hex(8)}
        return dict(self._stamps)

    async def wake(self) -> None:
        for listener in self._listeners:
            listener.set()

    async def acknowledge(self, member: str, record: bytes) -> Beat:
        now = self._now_ms()
        self._members = {name: at for name, at in self._members.items() if now - at <= LIFETIME_MS}
        self._members[member] = now
        return Beat(len(self._members), self._epoch)

    async def withdraw(self, member: str) -> None:
        self._members.pop(member, None)

    async def document(self) -> bytes | None:
        return None

    async def wakes(self) -> AsyncGenerator[None, None]:
        listener = asyncio.Event()
        self._listeners.add(listener)
        try:
            yield
            while True:
                await listener.wait()
                listener.clear()
                yield
        finally:
            self._listeners.discard(listener)
