"""Leases on cache entries: who, of all replicas, asks the provider for one of them.

A lease is a string beside the entry, with the entry's hash tag: the holder's nonce while it asks, or
:data:`APART` for a while after an answer that could not be stored, so that nobody waits for the next one. A holder
that dies loses its lease by expiry.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from cachepolicy_runtime.store.memory import MemoryCacheStore
from cachepolicy_runtime.store.replies import blob_or_none, integer, items
from cachepolicy_runtime.store.transport import Transport

#: The value of a lease that says: let each ask by itself. No nonce looks like it.
APART = b"-"


@dataclass(frozen=True, slots=True)
class Claim:
    """Answer to a claim.

    Attributes:
        held: the lease is ours now.
        apart: nobody shall wait for this entry at present.
        value: the entry as it was after the claim. One that came between a miss and the claim shows here.
    """

    held: bool
    apart: bool
    value: bytes | None


class LeaseStore(Protocol):
    """Every method may raise StoreUnavailable and nothing else. Times are milliseconds of the store's clock."""

    async def claim(self, lease: str, nonce: str, ttl_ms: int, entry: str) -> Claim:
        """Take ``lease`` where nobody holds it, and read ``entry``; one round trip."""
        ...

    async def renew(self, lease: str, nonce: str, ttl_ms: int) -> bool:
        """Keep a lease for ``ttl_ms`` more; False where it is not ours any more."""
        ...

    async def release(self, lease: str, nonce: str, apart_ms: int) -> None:
        """Give up a lease that is still ours and tell all who wait; for ``apart_ms`` nobody may take it."""
        ...

    def released(self) -> AsyncGenerator[str, None]:
        """The names of leases as they are released; "" where some may have been missed (all should look again).
        Ends by raising StoreUnavailable."""
        ...


class RedisLeaseStore:
    """Leases in the cache server; see ``scripts/lease_*.lua``."""

    def __init__(self, transport: Transport, channel: str) -> None:
        self._transport = transport
        self._channel = channel

    async def claim(self, lease: str, nonce: str, ttl_ms: int, entry: str) -> Claim:
        taken, values = await self._transport.pipeline(
            [("SET", lease, nonce, "NX", "PX", ttl_ms), ("MGET", entry, lease)]
        )
        value, holder = (blob_or_none(item) for item in items(values))
        return Claim(taken is not None, holder == APART, value)

    async def renew(self, lease: str, nonce: str, ttl_ms: int) -> bool:
        return integer(await self._transport.script("lease_renew", [lease], [nonce, ttl_ms])) == 1

    async def release(self, lease: str, nonce: str, apart_ms: int) -> None:
        await self._transport.script("lease_release", [lease], [nonce, APART, apart_ms, self._channel])

    async def released(self) -> AsyncGenerator[str, None]:
        async with aclosing(self._transport.listen(self._channel)) as messages:
            async for message in messages:
                yield message.decode() if message else ""


class MemoryLeaseStore:
    """Where the cache is in this process all callers are too. They wait for each other without a lease; only
    that nobody shall wait is kept."""

    def __init__(self, entries: MemoryCacheStore) -> None:
        self._entries = entries

    async def claim(self, lease: str, nonce: str, ttl_ms: int, entry: str) -> Claim:
        apart = await self._entries.get(lease) == APART
        return Claim(not apart, apart, await self._entries.get(entry))

    async def renew(self, lease: str, nonce: str, ttl_ms: int) -> bool:
        return True

    async def release(self, lease: str, nonce: str, apart_ms: int) -> None:
        if apart_ms:
            await self._entries.put(lease, APART, apart_ms)

    async def released(self) -> AsyncGenerator[str, None]:
        return
        yield ""
