"""The other three ports in this process: for a Core without Redis, and while Redis is away. All bounded."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

from cachepolicy.acknowledgement import LIFETIME_MS
from cachepolicy.stamps import ALL, MAX_FIELDS, within
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.store.port import (
    Beat,
    CacheItem,
    SessionRead,
    SessionRecord,
    SessionSaved,
    SessionWrite,
)

__all__ = ["MemoryCacheStore", "MemoryControlStore", "MemoryLimitStore", "MemorySessionStore"]


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class _Session:
    data: bytes
    version: int
    created_ms: int
    expires_ms: int
    index: str | None


class MemorySessionStore:
    """Bounded by the bytes of the content; at the bound the session used longest ago is forgotten."""

    def __init__(self, now_ms: Callable[[], int] = monotonic_ms, max_bytes: int = 64 << 20) -> None:
        self._now_ms = now_ms
        self._max_bytes = max_bytes
        self._bytes = 0
        self._epoch = secrets.token_hex(8)
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    async def load(self, key: str, *, idle_ms: int, absolute_ms: int) -> SessionRead:
        now, session = self._now_ms(), self._live(key)
        if session is None:
            return SessionRead(self._epoch, None)
        age = now - session.created_ms
        if age >= absolute_ms:
            self._remove(key)
            return SessionRead(self._epoch, None)
        self._put(key, replace(session, expires_ms=now + min(idle_ms, absolute_ms - age)))
        return SessionRead(self._epoch, SessionRecord(session.data, session.version, age))

    async def save(self, key: str, write: SessionWrite) -> SessionSaved:
        now, source = self._now_ms(), write.replaces or key
        stored = self._live(source)
        version = stored.version if stored else 0
        if version != write.expected_version:
            return SessionSaved(False, version, self._epoch)
        created = stored.created_ms if stored else now - write.age_ms
        left = write.absolute_ms - (now - created)
        if left <= 0:
            return SessionSaved(False, 0, self._epoch)
        index = write.index or (stored.index if stored else None)
        self._remove(source)
        self._put(key, _Session(write.data, version + 1, created, now + min(write.idle_ms, left), index))
        return SessionSaved(True, version + 1, self._epoch)

    async def destroy(self, keys: Sequence[str]) -> int:
        found = [key for key in keys if self._live(key)]
        for key in found:
            self._remove(key)
        return len(found)

    async def destroy_owned(self, index: str) -> int:
        return await self.destroy([key for key, session in self._sessions.items() if session.index == index])

    def _live(self, key: str) -> _Session | None:
        session = self._sessions.get(key)
        if session is not None and session.expires_ms <= self._now_ms():
            self._remove(key)
            return None
        return session

    def _put(self, key: str, session: _Session) -> None:
        self._remove(key)
        self._sessions[key] = session
        self._bytes += len(session.data)
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._sessions)))

    def _remove(self, key: str) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            self._bytes -= len(session.data)


class MemoryCacheStore:
    """Bounded by the bytes of keys and values; at the bound the value used longest ago is dropped."""

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
        self._values[key] = (value, self._now_ms() + ttl_ms)
        self._bytes += len(key) + len(value)
        while self._bytes > self._max_bytes:
            self._remove(next(iter(self._values)))

    async def mput(self, entries: Sequence[CacheItem]) -> None:
        for entry in entries:
            await self.put(entry.key, entry.value, entry.ttl_ms)

    async def delete(self, *keys: str) -> None:
        for key in keys:
            self._remove(key)

    def _remove(self, key: str) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self._bytes -= len(key) + len(found[0])


class MemoryControlStore:
    """Control keys of one process: no operator reads them, and no other process shares them."""

    def __init__(self, now_ms: Callable[[], int] = monotonic_ms) -> None:
        self._now_ms = now_ms
        self._epoch = secrets.token_hex(8)
        self._stamps = {ALL: secrets.token_hex(8)}
        self._sequence = 0
        self._members: dict[str, int] = {}
        self._listeners: set[asyncio.Event] = set()

    async def stamps(self, *, seen: int = 0) -> dict[str, str]:
        return dict(self._stamps)

    async def set_stamps(self, fields: Sequence[str], *, seen: int = 0, sequence: int = 0) -> dict[str, str]:
        if sequence:
            fields = fields if sequence > self._sequence else ()
            self._sequence = max(sequence, self._sequence)
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
