"""The stored entries of one batch of embeddings: read at once, written at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cachepolicy.caches import EmbeddingCache, ExpireAfter, VectorEncoding
from cachepolicy_runtime.caching import CacheView
from cachepolicy_runtime.embedding_counts import EmbeddingCounts
from cachepolicy_runtime.envelope import Entry, Opener, expiry_of, pack
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.port import CacheItem
from cachepolicy_runtime.vectors import FLOAT16, FLOAT32, WIDTHS, Blob, Buffer, from_half, to_half

T = TypeVar("T")

#: Inputs in one command: 800 KB at 1536 dimensions, and a millisecond of checking. All commands of a batch leave together, and what came first is
#: checked while the rest is on its way: the store is heard often, and the event loop is never held for long.
PART = 128

_FORMATS = {VectorEncoding.FLOAT32: FLOAT32, VectorEncoding.FLOAT16: FLOAT16}


def stored_as(rules: EmbeddingCache) -> str:
    """The format that the policy stores vectors in."""
    return _FORMATS[rules.encoding]


@dataclass(frozen=True, slots=True)
class Places:
    """Where the embeddings of a batch live, under which rules, and the stamp that was valid when we looked.

    Attributes:
        names: keys of the distinct inputs, by what tells an input from another.
    """

    names: Mapping[Hashable, str]
    stamp: str
    rules: EmbeddingCache


class Entries:
    """Reads first, writes then; what one failed to do the other does in this process's memory."""

    def __init__(
        self, view: CacheView, places: Places, counts: EmbeddingCounts, now_ms: Callable[[], int]
    ) -> None:
        self._view = view
        self._places = places
        self._counts = counts
        self._now_ms = now_ms
        self._store = view.store
        self._format = stored_as(places.rules)
        self._opener = Opener(view.secret, places.stamp, self._format)
        self._worn: dict[Hashable, Buffer] = {}

    async def read(self, dimensions: int | None) -> dict[Hashable, Blob]:
        """The known vectors; none where they are not of one length, the one that is asked for."""
        first, *more = _parts(list(self._places.names.items()))
        found = await self._open(first) if not more else await self._open_all([first, *more])
        sizes = set(map(len, found.values()))
        if len(sizes) > 1 or (dimensions and not sizes <= {dimensions * WIDTHS[self._format]}):
            self._worn.clear()
            return {}
        return _widened(found) if self._format == FLOAT16 else found

    async def write(self, vectors: Mapping[Hashable, Blob]) -> dict[Hashable, Blob]:
        """Keep new vectors, and begin the time to live of worn entries anew. Returns the vectors as every later
        answer will have them; one that the format cannot hold stays as it is and is not kept."""
        payloads, rounded = self._rounded(vectors)
        if lost := len(vectors) - len(payloads):
            self._counts.not_stored["out-of-range"] += lost
        self._counts.stored += len(payloads)
        self._counts.renewed += len(self._worn)
        await self._put(self._worn | payloads)
        return rounded

    def _rounded(
        self, vectors: Mapping[Hashable, Blob]
    ) -> tuple[dict[Hashable, Buffer], dict[Hashable, Blob]]:
        if self._format == FLOAT32:
            return dict(vectors), dict(vectors)
        halves: dict[Hashable, Buffer] = {
            item: half for item, blob in vectors.items() if (half := to_half(blob)) is not None
        }
        return halves, {**vectors, **_widened(halves)}

    async def _open_all(self, parts: list[list[tuple[Hashable, str]]]) -> dict[Hashable, Buffer]:
        found: dict[Hashable, Buffer] = {}
        for part in await asyncio.gather(*map(self._open, parts)):
            found.update(part)
        return found

    async def _open(self, part: list[tuple[Hashable, str]]) -> dict[Hashable, Buffer]:
        """The valid payloads of one command's entries."""
        names = [name for _, name in part]
        data = await self._fetch(names)
        payloads = self._opener.payloads(names, data)
        found: dict[Hashable, Buffer] = {
            item: payload for (item, _), payload in zip(part, payloads, strict=True) if payload is not None
        }
        if self._places.rules.expire_after is ExpireAfter.ACCESS:
            self._note_worn(part, data, found)
        return found

    def _note_worn(
        self,
        part: list[tuple[Hashable, str]],
        data: Iterable[bytes | None],
        found: Mapping[Hashable, Buffer],
    ) -> None:
        """Those in the second half of their time to live. An entry in steady use is so written twice in that time; a
        command that moves its expiry would be sent at each hit, for the envelope says when it was written, not
        when it was used."""
        now_ms = self._now_ms()
        for (item, _), value in zip(part, data, strict=True):
            if value is not None and item in found and _worn(value, now_ms):
                self._worn[item] = found[item]

    async def _fetch(self, names: list[str]) -> list[bytes | None]:
        """From this process's memory where the shared store fails."""
        try:
            return await self._store.mget(names)
        except StoreUnavailable:
            self._leave_the_store()
            return await self._store.mget(names)

    async def _put(self, payloads: Mapping[Hashable, Buffer]) -> None:
        if not payloads:
            return
        items = [self._item(self._places.names[item], payload) for item, payload in payloads.items()]
        await asyncio.gather(*map(self._put_part, _parts(items)))

    async def _put_part(self, items: list[CacheItem]) -> None:
        try:
            await self._store.mput(items)
        except StoreUnavailable:
            self._leave_the_store()
            await self._store.mput(items)

    def _item(self, name: str, payload: Buffer) -> CacheItem:
        ttl_ms = self._places.rules.ttl.milliseconds
        entry = Entry(self._places.stamp, self._now_ms(), ttl_ms, self._format, bytes(payload))
        return CacheItem(name, pack(self._view.secret, name, entry, compress_from=None), ttl_ms)

    def _leave_the_store(self) -> None:
        if self._store is not self._view.fallback:
            self._counts.store_failures += 1
            self._store = self._view.fallback


def _parts(whole: list[T]) -> list[list[T]]:
    return [whole[start : start + PART] for start in range(0, len(whole), PART)]


def _worn(data: bytes, now_ms: int) -> bool:
    stored_at_ms, ttl_ms = expiry_of(data)
    return now_ms - stored_at_ms > ttl_ms / 2


def _widened(halves: dict[Hashable, Buffer]) -> dict[Hashable, Blob]:
    return {item: from_half(half) for item, half in halves.items()}
