"""LangChain's key-value store of bytes, such as ``CacheBackedEmbeddings`` keeps its vectors in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import TYPE_CHECKING

from cachepolicy.durations import Duration
from cachepolicy.identity import Identity
from cachepolicy.keys import GLOBAL_SCOPE
from cachepolicy_runtime.clients.langchain import PROVIDER
from cachepolicy_runtime.clients.missing import needs
from cachepolicy_runtime.response_lookup import Trip
from cachepolicy_runtime.response_places import scope_of
from cachepolicy_runtime.store.indexes import START
from cachepolicy_runtime.values import MAX_NAME, ValueName

with needs("langchain_core", "cachepolicy[langchain]"):
    from langchain_core.stores import ByteStore

if TYPE_CHECKING:
    from cachepolicy_runtime.runtime import CacheRuntime


_BYTES = "application/octet-stream"


class RuntimeByteStore(ByteStore):
    """Values of one namespace in the response cache, under the provider ``langchain`` and the namespace as model.

    It is a cache: a value expires (``ttl``, or as the policy says), may be evicted, and is missing while the
    store is away. It belongs to whoever the running code works for, or to ``identity``; nobody has none.
    """

    def __init__(
        self,
        runtime: CacheRuntime,
        namespace: str,
        *,
        ttl: str | None = None,
        identity: Identity | None = None,
    ) -> None:
        if not 0 < len(namespace) <= MAX_NAME:
            raise ValueError(f"a namespace has 1 to {MAX_NAME} characters")
        self._runtime = runtime
        self._namespace = namespace
        self._ttl = Duration.parse(ttl) if ttl is not None else None
        self._identity = identity
        self._values = runtime.responses.values

    async def amget(self, keys: Sequence[str]) -> list[bytes | None]:
        who = await self._caller()
        return await asyncio.gather(*(self._value(key, who) for key in keys))

    async def amset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        who = await self._caller()
        ways = [(key, value, self._way(key, who)) for key, value in key_value_pairs]
        known = [(key, value, way) for key, value, way in ways if way is not None]
        if not known:
            return
        await asyncio.gather(*(self._values.keep(way, value, kind=_BYTES) for _, value, way in known))
        way = known[0][2]
        await self._runtime.indexes.add(
            self._index(way, who), [key.encode() for key, _, _ in known], way.place.rules.ttl.milliseconds
        )

    async def amdelete(self, keys: Sequence[str]) -> None:
        who = await self._caller()
        ways = [way for key in keys if (way := self._way(key, who)) is not None]
        if ways:
            await self._values.remove(ways)
            await self._runtime.indexes.remove(self._index(ways[0], who), [key.encode() for key in keys])

    async def ayield_keys(self, *, prefix: str | None = None) -> AsyncGenerator[str]:
        """The keys whose values are there, each once. To know that, it reads the values."""
        who = await self._caller()
        way = self._way("", who)
        if way is None:
            return
        index, cursor, seen = self._index(way, who), START, set[str]()
        while True:
            cursor, members = await self._runtime.indexes.page(index, cursor)
            keys = [key for member in members if (key := member.decode()).startswith(prefix or "")]
            fresh = [key for key in dict.fromkeys(keys) if key not in seen]
            seen.update(fresh)
            values = await asyncio.gather(*(self._value(key, who) for key in fresh))
            for key, value in zip(fresh, values, strict=True):
                if value is not None:
                    yield key
            if cursor == START:
                return

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        return self._runtime.bridge.run(lambda: self.amget(keys))

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        self._runtime.bridge.run(lambda: self.amset(key_value_pairs))

    def mdelete(self, keys: Sequence[str]) -> None:
        self._runtime.bridge.run(lambda: self.amdelete(keys))

    def yield_keys(self, *, prefix: str | None = None) -> Generator[str]:
        yield from self._runtime.bridge.each(self.ayield_keys(prefix=prefix))

    async def _caller(self) -> Identity | None:
        return self._identity or await self._runtime.caller()

    def _way(self, key: str, who: Identity | None) -> Trip | None:
        return self._values.trip(
            ValueName(PROVIDER, self._namespace, key, ttl=self._ttl, removable=True), who
        )

    async def _value(self, key: str, who: Identity | None) -> bytes | None:
        way = self._way(key, who)
        return await self._values.look(way) if way is not None else None

    def _index(self, way: Trip, who: Identity | None) -> str:
        scope = scope_of(way.place.rules, who) or GLOBAL_SCOPE
        return way.view.layout.index(scope, PROVIDER, self._namespace)
