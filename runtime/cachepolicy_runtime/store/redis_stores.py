"""The four ports over Redis: each method is one command or one script, in one round trip."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from cachepolicy.acknowledgement import LIFETIME_MS
from cachepolicy.keys import KeyLayout
from cachepolicy.stamps import MAX_FIELDS
from cachepolicy_runtime.store.link import Argument, Reply
from cachepolicy_runtime.store.port import Beat, CacheItem
from cachepolicy_runtime.store.replies import blob, blob_or_none, integer, items
from cachepolicy_runtime.store.transport import Transport

#: As many vectors are an answer that others should not wait behind.
_MANY_KEYS = 16


class RedisCacheStore:
    """Plain strings with a time to live."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get(self, key: str) -> bytes | None:
        return blob_or_none(await self._transport.call("GET", key))

    async def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        reply = await self._transport.call("MGET", *keys, bulk=len(keys) >= _MANY_KEYS)
        return [blob_or_none(item) for item in items(reply)]

    async def put(self, key: str, value: bytes, ttl_ms: int) -> None:
        await self._transport.call("SET", key, value, "PX", ttl_ms)

    async def mput(self, entries: Sequence[CacheItem]) -> None:
        await self._transport.pipeline([("SET", item.key, item.value, "PX", item.ttl_ms) for item in entries])

    async def delete(self, *keys: str) -> None:
        if keys:
            await self._transport.call("UNLINK", *keys)


class RedisControlStore:
    """The control keys, on the state server or, where there is none, on the cache server."""

    def __init__(self, transport: Transport, keys: KeyLayout) -> None:
        self._transport = transport
        self._keys = keys

    async def stamps(self, *, seen: int = 0) -> dict[str, str]:
        return await self.set_stamps((), seen=seen)

    async def set_stamps(self, fields: Sequence[str], *, seen: int = 0, revision: str = "") -> dict[str, str]:
        args: list[Argument] = [_nonce(), seen, revision, MAX_FIELDS, *fields]
        return _pairs(await self._transport.script("stamps", [self._keys.stamps], args))

    async def wake(self) -> None:
        await self._transport.call("PUBLISH", self._keys.wake_channel, b"")

    async def acknowledge(self, member: str, record: bytes) -> Beat:
        keys = [self._keys.acknowledgements, self._keys.acknowledgement(member), self._keys.epoch]
        live, epoch = items(
            await self._transport.script("acknowledge", keys, [member, record, LIFETIME_MS, _nonce()])
        )
        return Beat(integer(live), blob(epoch).decode())

    async def withdraw(self, member: str) -> None:
        await self._transport.pipeline(
            [
                ("ZREM", self._keys.acknowledgements, member),
                ("DEL", self._keys.acknowledgement(member)),
            ]
        )

    async def document(self) -> bytes | None:
        return blob_or_none(await self._transport.call("GET", self._keys.document))

    async def wakes(self) -> AsyncGenerator[None, None]:
        async with aclosing(self._transport.listen(self._keys.wake_channel)) as messages:
            async for _ in messages:
                yield


def _nonce() -> str:
    return secrets.token_hex(8)


def _pairs(reply: Reply) -> dict[str, str]:
    flat = [blob(item).decode() for item in items(reply)]
    return dict(zip(flat[::2], flat[1::2], strict=True))
