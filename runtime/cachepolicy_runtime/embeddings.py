"""The embedding cache: one entry per text, so that a batch that is partly known costs only what is missing.

Vectors are float32: that is what providers compute, and half of what JSON numbers would take. A vector is
rounded to float32 before it is returned, so the first answer and every later one are the same numbers.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cachepolicy.identity import Identity
from cachepolicy.keys import tenant_scope
from cachepolicy.stamps import Scope
from cachepolicy_runtime.caching import CACHE_NAME, CacheCounts, CacheView, ViewSource, wall_clock_ms
from cachepolicy_runtime.envelope import Entry, pack, unpack
from cachepolicy_runtime.keys import MAX_MODEL_LENGTH, EmbeddingQuery, embedding_digest
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.port import CacheItem, CacheStore

KIND = "embeddings"
_FLOAT32 = "f32"

T = TypeVar("T")

#: Texts in one round trip: 1.5 MB at 1536 dimensions, which every deadline of the store allows for.
ROUND_TRIP = 256

#: A vector as little-endian float32, four bytes for each number.
Blob = bytes


class EmbeddingError(Exception):
    """The provider's embeddings cannot be right: a wrong count, index or dimension. Nothing was stored."""


@dataclass(frozen=True, slots=True)
class IndexedVector:
    """One embedding as a provider returns it: its place in the batch that was sent, and its numbers."""

    index: int
    values: Sequence[float]


#: Gets the texts that are missing, each once, and returns one vector for each, in any order.
Embed = Callable[[list[str]], Awaitable[Sequence[IndexedVector]]]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embeddings of a batch.

    Attributes:
        blobs: one per text, in the order of the texts.
        hits: distinct texts that the cache knew.
        computed: distinct texts that the provider was asked for.
        bypass: why the cache was not used, as a word; None when it was.
    """

    blobs: tuple[Blob, ...]
    hits: int
    computed: int
    bypass: str | None = None

    @property
    def vectors(self) -> list[list[float]]:
        return [to_floats(blob) for blob in self.blobs]

    @property
    def cache_status(self) -> str:
        """Value of the ``Cache-Status`` header (RFC 9211)."""
        if self.bypass:
            return f"{CACHE_NAME}; fwd=bypass; detail={self.bypass}"
        if self.computed == 0:
            return f"{CACHE_NAME}; hit"
        if self.hits == 0:
            return f"{CACHE_NAME}; fwd=uri-miss"
        return f'{CACHE_NAME}; fwd=partial; detail="{self.hits} known, {self.computed} computed"'


def to_floats(blob: Blob) -> list[float]:
    values = array("f", blob)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def to_blob(values: Sequence[float]) -> Blob:
    """Raises :class:`EmbeddingError` for an empty vector and for what is not a finite float32."""
    try:
        packed = array("f", values)
    except (TypeError, OverflowError):
        raise EmbeddingError("the provider returned an embedding that is not a list of numbers") from None
    if not packed or not all(map(math.isfinite, packed)):
        raise EmbeddingError("the provider returned an embedding that is empty or not finite")
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the embeddings of the distinct texts live, and the stamp that was valid when we looked."""

    names: Mapping[str, str]
    stamp: str
    ttl_ms: int


class Embeddings:
    """See the module. One per process; ``counts`` is what it did, in texts."""

    def __init__(self, view: ViewSource, *, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._view = view
        self._now_ms = now_ms
        self.counts = CacheCounts()

    async def get_or_embed(
        self,
        texts: Sequence[str],
        embed: Embed,
        *,
        model: str,
        identity: Identity | None,
        provider: str | None = None,
        dimensions: int | None = None,
        input_type: str | None = None,
    ) -> Embedded:
        """One embedding for each text, in their order. ``embed`` gets only the texts that are not known.

        ``dimensions`` and ``input_type`` are what the provider is asked for, None where it is not. Name the
        ``provider`` where two of them have a model of one name. Without an identity the cache is not used.
        Raises :class:`EmbeddingError` when the provider's vectors cannot belong to the texts; exceptions of
        ``embed`` pass through.
        """
        view, distinct = self._view(), list(dict.fromkeys(texts))
        if not distinct:
            return Embedded((), 0, 0)
        query = EmbeddingQuery(model, provider, dimensions, input_type)
        places = _places(view, distinct, query, identity)
        if isinstance(places, str):
            self.counts.bypassed[places] += 1
            fresh = await _compute(embed, distinct, dimensions)
            return Embedded(tuple(fresh[text] for text in texts), 0, len(fresh), places)
        known, store = await self._read(view, places, dimensions)
        fresh = await _missing(embed, distinct, known, dimensions)
        tally = self.counts.of(provider)
        tally.hits += len(distinct) - len(fresh)
        tally.misses += len(fresh)
        await self._store(view, places, fresh, store)
        vectors = {**known, **fresh}
        return Embedded(tuple(vectors[text] for text in texts), len(distinct) - len(fresh), len(fresh))

    async def _read(
        self, view: CacheView, places: _Places, dimensions: int | None
    ) -> tuple[dict[str, Blob], CacheStore]:
        """The known vectors, and the store that the missing ones go to: memory while the shared one is away."""
        names, store = list(places.names.values()), view.store
        try:
            found = [value for part in _parts(names) for value in await store.mget(part)]
        except StoreUnavailable:
            self.counts.store_failures += 1
            store = view.fallback
            found = await store.mget(names)
        known: dict[str, Blob] = {}
        for (text, name), data in zip(places.names.items(), found, strict=True):
            entry = unpack(view.secret, name, data) if data is not None else None
            if entry is not None and entry.stamp == places.stamp and entry.kind == _FLOAT32:
                known[text] = entry.payload
        sizes = {len(blob) for blob in known.values()}
        expected = dimensions is None or sizes <= {dimensions * 4}
        return (known if expected and len(sizes) <= 1 else {}), store

    async def _store(
        self, view: CacheView, places: _Places, fresh: Mapping[str, Blob], store: CacheStore
    ) -> None:
        now_ms, items = self._now_ms(), []
        for text, blob in fresh.items():
            name = places.names[text]
            entry = Entry(places.stamp, now_ms, places.ttl_ms, _FLOAT32, blob)
            items.append(CacheItem(name, pack(view.secret, name, entry), places.ttl_ms))
        try:
            for part in _parts(items):
                await store.mput(part)
                self.counts.stored += len(part)
        except StoreUnavailable:
            self.counts.store_failures += 1


def _parts(whole: list[T]) -> list[list[T]]:
    return [whole[start : start + ROUND_TRIP] for start in range(0, len(whole), ROUND_TRIP)]


def _places(
    view: CacheView, texts: Sequence[str], query: EmbeddingQuery, identity: Identity | None
) -> _Places | str:
    """The places of the texts, or one word for why this batch does not touch the cache."""
    if view.embeddings is None:
        return "no-policy"
    if identity is None:
        return "no-identity"
    if not 0 < len(query.model) <= MAX_MODEL_LENGTH:
        return "model-name"
    stamp = view.stamp_of(Scope(KIND, identity.tenant, query.provider, query.model))
    if stamp is None:
        return "purge-state-unknown"
    scope = tenant_scope(identity.tenant)
    names = {
        text: view.layout.embedding(scope, query.model, embedding_digest(view.secret, scope, query, text))
        for text in texts
    }
    return _Places(names, stamp, view.embeddings.ttl.milliseconds)


async def _missing(
    embed: Embed, texts: list[str], known: Mapping[str, Blob], dimensions: int | None
) -> dict[str, Blob]:
    """Vectors for the texts that are not known; for all of them where the provider's dimension changed."""
    missing = [text for text in texts if text not in known]
    if not missing:
        return {}
    fresh = await _compute(embed, missing, dimensions)
    changed = known and len(next(iter(known.values()))) != len(fresh[missing[0]])
    return {**fresh, **await _compute(embed, list(known), dimensions)} if changed else fresh


async def _compute(embed: Embed, texts: list[str], dimensions: int | None) -> dict[str, Blob]:
    """Ask the provider, and match its vectors with the texts by index."""
    vectors = await embed(texts)
    indexes = sorted(vector.index for vector in vectors)
    if indexes != list(range(len(texts))):
        raise EmbeddingError(
            f"the provider was asked for {len(texts)} embeddings and returned {len(vectors)}, "
            "or did not number them from 0"
        )
    blobs = {texts[vector.index]: to_blob(vector.values) for vector in vectors}
    sizes = {len(blob) // 4 for blob in blobs.values()}
    if len(sizes) > 1 or (dimensions is not None and sizes != {dimensions}):
        wanted = f"{dimensions}" if dimensions is not None else "one number"
        raise EmbeddingError(
            f"the provider returned embeddings of {', '.join(map(str, sorted(sizes)))} dimensions, "
            f"and {wanted} was expected"
        )
    return blobs
