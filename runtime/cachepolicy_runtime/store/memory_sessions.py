"""Sessions in this process: for a Core without Redis."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cachepolicy_runtime.store.port import (
    MAX_LISTED,
    SessionEntry,
    SessionRead,
    SessionRecord,
    SessionSaved,
    SessionWrite,
)


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class _Session:
    data: bytes
    version: int
    created_ms: int
    used_ms: int
    expires_ms: int
    index: str | None
    label: str | None

    def record(self, now: int) -> SessionRecord:
        return SessionRecord(self.data, self.version, now - self.created_ms, self.index, self.label)


class MemorySessionStore:
    """Bounded by the bytes of the content; at the bound the session used longest ago is forgotten."""

    def __init__(self, now_ms: Callable[[], int] = monotonic_ms, max_bytes: int = 64 << 20) -> None:
        self._now_ms = now_ms
        # Fixed, so that what is told of a session stays the same when the wall clock is set.
        self._began_ms = unix_ms() - now_ms()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._epoch = secrets.token_hex(8)
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    async def load(self, key: str, *, idle_ms: int, absolute_ms: int) -> SessionRead:
        now, session = self._now_ms(), self._live(key)
        if session is None:
            return SessionRead(self._epoch, None)
        if now - session.created_ms >= absolute_ms:
            self._remove(key)
            return SessionRead(self._epoch, None)
        self._put(key, replace(session, used_ms=now, expires_ms=now + idle_ms))
        return SessionRead(self._epoch, session.record(now))

    async def save(self, key: str, write: SessionWrite) -> SessionSaved:
        now, source = self._now_ms(), write.replaces or key
        stored = self._live(source)
        created = stored.created_ms if stored else now - write.age_ms
        if now - created >= write.absolute_ms:
            return SessionSaved(False, 0, self._epoch)
        version = stored.version if stored else 0
        if version != write.expected_version:
            return SessionSaved(False, version, self._epoch, stored.record(now) if stored else None)
        index = write.index or (stored.index if stored else None)
        label = write.label or (stored.label if stored else None)
        self._remove(source)
        self._put(key, _Session(write.data, version + 1, created, now, now + write.idle_ms, index, label))
        return SessionSaved(True, version + 1, self._epoch)

    async def destroy(self, keys: Sequence[str], *, owner: str | None = None) -> int:
        found = [key for key in keys if (one := self._live(key)) and (owner is None or one.index == owner)]
        for key in found:
            self._remove(key)
        return len(found)

    async def destroy_owned(self, index: str, *, keep: str | None = None) -> int:
        keys = [key for key, session in self._sessions.items() if session.index == index and key != keep]
        return await self.destroy(keys)

    async def owned(self, index: str, *, idle_ms: int, absolute_ms: int) -> list[SessionEntry]:
        now, began = self._now_ms(), self._began_ms
        alive = [
            SessionEntry(key, began + session.created_ms, began + session.used_ms, session.label)
            for key, session in self._sessions.items()
            if session.index == index and session.expires_ms > now and now - session.created_ms < absolute_ms
        ]
        return sorted(alive, key=lambda entry: entry.created_ms, reverse=True)[:MAX_LISTED]

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
