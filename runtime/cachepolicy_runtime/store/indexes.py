"""Which values were stored under a name: a set beside the entries, with their hash tag.

For those alone who want to list what they stored. An entry that expired, was evicted or purged stays in its set
until somebody finds it gone; the set itself expires when nothing was added to it for an entry's time to live.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cachepolicy_runtime.store.memory import monotonic_ms
from cachepolicy_runtime.store.replies import blob, items
from cachepolicy_runtime.store.transport import Transport

#: Where a listing begins, and how the last page says that it is the last one.
START = b"0"
#: Members in a page, about: a fraction of a millisecond of the server's time.
PAGE = 500
#: What a process without a server remembers of each set; beyond, what was added first is forgotten.
MAX_IN_MEMORY = 100_000


class IndexStore(Protocol):
    """Every method may raise StoreUnavailable and nothing else."""

    async def add(self, index: str, members: Sequence[bytes], ttl_ms: int) -> None:
        """Add at least one member, and keep the set for ``ttl_ms`` from now on."""
        ...

    async def remove(self, index: str, members: Sequence[bytes]) -> None:
        """Remove at least one member; those that are not there do no harm."""
        ...

    async def page(self, index: str, cursor: bytes) -> tuple[bytes, list[bytes]]:
        """The next cursor and some members. What is there from :data:`START` to :data:`START` comes at least once."""
        ...


class RedisIndexStore:
    """Sets in the cache server."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def add(self, index: str, members: Sequence[bytes], ttl_ms: int) -> None:
        await self._transport.pipeline([("SADD", index, *members), ("PEXPIRE", index, ttl_ms)])

    async def remove(self, index: str, members: Sequence[bytes]) -> None:
        await self._transport.call("SREM", index, *members)

    async def page(self, index: str, cursor: bytes) -> tuple[bytes, list[bytes]]:
        following, members = items(await self._transport.call("SSCAN", index, cursor, "COUNT", PAGE))
        return blob(following), [blob(member) for member in items(members)]


class MemoryIndexStore:
    """Sets of this process, beside the entries in its memory."""

    def __init__(self) -> None:
        self._sets: dict[str, tuple[dict[bytes, None], int]] = {}

    async def add(self, index: str, members: Sequence[bytes], ttl_ms: int) -> None:
        found = dict.fromkeys([*self._alive(index), *members])
        for member in list(found)[:-MAX_IN_MEMORY]:
            del found[member]
        self._sets[index] = (found, monotonic_ms() + ttl_ms)

    async def remove(self, index: str, members: Sequence[bytes]) -> None:
        found = self._alive(index)
        for member in members:
            found.pop(member, None)

    async def page(self, index: str, cursor: bytes) -> tuple[bytes, list[bytes]]:
        return START, list(self._alive(index))

    def _alive(self, index: str) -> dict[bytes, None]:
        members, expires_ms = self._sets.get(index, ({}, 0))
        if expires_ms > monotonic_ms():
            return members
        self._sets.pop(index, None)
        return {}
