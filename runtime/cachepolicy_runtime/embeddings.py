"""The embedding cache: one entry per input, so that a batch that is partly known costs only what is missing.

A vector is rounded to the format it is stored in before it is returned, so the first answer and every later
one are the same numbers.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from cachepolicy.caches import CacheMode, EmbeddingCache, ExpireAfter, VectorEncoding
from cachepolicy.identity import Identity
from cachepolicy.keys import tenant_scope
from cachepolicy.stamps import Scope
from cachepolicy_runtime import embedding_keys
from cachepolicy_runtime.caching import CACHE_NAME, CacheCounts, CacheView, ViewSource, wall_clock_ms
from cachepolicy_runtime.embedding_keys import EmbeddingQuery, Inputs, NotCanonicalError, inputs_of
from cachepolicy_runtime.envelope import Entry, Opener, expiry_of, pack
from cachepolicy_runtime.keys import MAX_MODEL_LENGTH
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.port import CacheItem, CacheStore
from cachepolicy_runtime.vectors import (
    FLOAT16,
    FLOAT32,
    WIDTHS,
    Blob,
    EmbeddingError,
    IndexedVector,
    from_half,
    to_array,
    to_base64,
    to_blob,
    to_floats,
    to_half,
)

__all__ = ["Embedded", "EmbeddingError", "Embeddings", "IndexedVector", "inputs_of"]

KIND = "embeddings"
SHADOW = "shadow"

T = TypeVar("T")

#: Inputs in one round trip: 1.5 MB at 1536 dimensions, which every deadline of the store allows for.
ROUND_TRIP = 256

#: Gets the inputs that are missing, each once, and returns one vector for each, in any order.
Embed: TypeAlias = "Callable[[list[Any]], Awaitable[Sequence[IndexedVector]]]"

_STORED_AS = {VectorEncoding.FLOAT32: FLOAT32, VectorEncoding.FLOAT16: FLOAT16}


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embeddings of a batch.

    Attributes:
        blobs: one per input, in their order, as little-endian float32.
        hits: distinct inputs that the cache knew.
        computed: distinct inputs that the provider was asked for.
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
    def base64(self) -> list[str]:
        """As OpenAI writes them for ``encoding_format: base64``."""
        return [to_base64(blob) for blob in self.blobs]

    def arrays(self) -> list[array[float]]:
        """One ``array('f')`` for each input."""
        return [to_array(blob) for blob in self.blobs]

    def numpy(self) -> Any:
        """A numpy array of float32, one row for each input; raises ``ImportError`` without numpy."""
        import numpy

        whole = numpy.frombuffer(b"".join(self.blobs), "<f4")
        return whole.reshape(len(self.blobs), -1 if self.blobs else 0)

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


@dataclass(frozen=True, slots=True)
class _Batch:
    """The distinct inputs by what tells them apart, and what the provider is asked to make of them."""

    inputs: Mapping[Hashable, Any]
    query: EmbeddingQuery


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the embeddings of a batch live, under which rules, and the stamp that was valid when we looked."""

    names: Mapping[Hashable, str]
    stamp: str
    rules: EmbeddingCache
    stored_as: str


@dataclass(slots=True)
class _Found:
    """What the cache knew of a batch.

    Attributes:
        store: where new entries go: this process's memory while the shared store is away.
        payloads: as they are stored, by input.
        worn: those of them that are in the second half of their time to live.
    """

    store: CacheStore
    payloads: dict[Hashable, bytes] = field(default_factory=dict)
    worn: set[Hashable] = field(default_factory=set)


class Embeddings:
    """See the module. One per process; ``counts`` is what it did, in inputs."""

    def __init__(self, view: ViewSource, *, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._view = view
        self._now_ms = now_ms
        self.counts = CacheCounts()

    async def get_or_embed(
        self,
        inputs: Inputs,
        embed: Embed,
        *,
        model: str,
        identity: Identity | None,
        provider: str | None = None,
        dimensions: int | None = None,
        input_type: str | None = None,
    ) -> Embedded:
        """One embedding for each input, in their order. ``embed`` gets only those that are not known, each once.

        ``inputs`` are texts or lists of tokens; one text or one list of tokens is a batch of one.
        ``dimensions`` and ``input_type`` are what the provider is asked for, None where it is not. Name the
        ``provider`` where two of them have a model of one name. Without an identity the cache is not used.
        Raises ``ValueError`` for other inputs, :class:`EmbeddingError` when the provider's vectors cannot belong
        to the inputs; exceptions of ``embed`` pass through.
        """
        view, given = self._view(), inputs_of(inputs)
        if not given:
            return Embedded((), 0, 0)
        order = embedding_keys.identities(given)
        query = EmbeddingQuery(model, provider, dimensions, input_type)
        batch = _Batch(dict(zip(order, given, strict=True)), query)
        vectors, hits, bypass = await self._vectors(view, batch, identity, embed)
        computed = len(batch.inputs) - hits
        return Embedded(tuple(map(vectors.__getitem__, order)), hits, computed, bypass)

    async def _vectors(
        self, view: CacheView, batch: _Batch, identity: Identity | None, embed: Embed
    ) -> tuple[Mapping[Hashable, Blob], int, str | None]:
        """The vectors by input, how many of them the cache gave, and why it was not used."""
        places = _places(view, batch, identity)
        if isinstance(places, str):
            self.counts.bypassed[places] += 1
            return await _compute(embed, batch, list(batch.inputs)), 0, places
        found = await self._read(view, places, batch.query.dimensions)
        known = _widened(found.payloads, places.stored_as)
        shadow = places.rules.mode is CacheMode.SHADOW
        fresh = await _missing(embed, batch, {} if shadow else known)
        vectors, payloads = _rounded(fresh, places.stored_as)
        if shadow:
            payloads = {item: data for item, data in payloads.items() if item not in known}
        await self._store(view, places, found, payloads)
        self._count(batch, len(known) if shadow else len(batch.inputs) - len(fresh), shadow)
        if shadow:
            return fresh, 0, SHADOW
        return {**known, **vectors}, len(batch.inputs) - len(fresh), None

    def _count(self, batch: _Batch, hits: int, shadow: bool) -> None:
        tally = self.counts.of(batch.query.provider)
        tally.hits += hits
        tally.misses += len(batch.inputs) - hits

    async def _read(self, view: CacheView, places: _Places, dimensions: int | None) -> _Found:
        """The valid entries; none where their vectors are not of one length, the one that is asked for."""
        found = _Found(view.store)
        data = await self._fetch(view, found, list(places.names.values()))
        opener = Opener(view.secret, places.stamp, places.stored_as)
        sliding, now_ms = places.rules.expire_after is ExpireAfter.ACCESS, self._now_ms()
        for (item, name), value in zip(places.names.items(), data, strict=True):
            payload = opener.payload(name, value) if value is not None else None
            if payload is not None and value is not None:
                found.payloads[item] = payload
                if sliding and _worn(value, now_ms):
                    found.worn.add(item)
        sizes = set(map(len, found.payloads.values()))
        if len(sizes) > 1 or (dimensions and not sizes <= {dimensions * WIDTHS[places.stored_as]}):
            return _Found(found.store)
        return found

    async def _fetch(self, view: CacheView, found: _Found, names: list[str]) -> list[bytes | None]:
        """In parts; once the shared store fails, the rest comes from this process's memory."""
        data: list[bytes | None] = []
        for part in _parts(names):
            try:
                data += await found.store.mget(part)
            except StoreUnavailable:
                self.counts.store_failures += 1
                found.store = view.fallback
                data += await found.store.mget(part)
        return data

    async def _store(
        self, view: CacheView, places: _Places, found: _Found, payloads: Mapping[Hashable, bytes]
    ) -> None:
        """Keep the new entries, and those anew whose time to live begins again."""
        renewed = {item: found.payloads[item] for item in found.worn}
        now_ms, ttl_ms = self._now_ms(), places.rules.ttl.milliseconds
        items = []
        for item, payload in {**renewed, **payloads}.items():
            name = places.names[item]
            entry = Entry(places.stamp, now_ms, ttl_ms, places.stored_as, payload)
            items.append(CacheItem(name, pack(view.secret, name, entry, compress_from=None), ttl_ms))
        for part in _parts(items):
            try:
                await found.store.mput(part)
            except StoreUnavailable:
                self.counts.store_failures += 1
                found.store = view.fallback
                await found.store.mput(part)
        self.counts.stored += len(payloads)


def _parts(whole: list[T]) -> list[list[T]]:
    return [whole[start : start + ROUND_TRIP] for start in range(0, len(whole), ROUND_TRIP)]


def _places(view: CacheView, batch: _Batch, identity: Identity | None) -> _Places | str:
    """The places of the inputs, or one word for why this batch does not touch the cache."""
    rules, query = view.embeddings, batch.query
    if rules is None:
        return "no-policy"
    if rules.mode is CacheMode.OFF:
        return "off"
    if identity is None:
        return "no-identity"
    stamp = view.stamp_of(Scope(KIND, identity.tenant, query.provider, query.model))
    if stamp is None:
        return "purge-state-unknown"
    stored_as = _STORED_AS[rules.encoding]
    keys = _names(view, query, tenant_scope(identity.tenant), stored_as, batch.inputs.values())
    return (
        keys
        if isinstance(keys, str)
        else _Places(dict(zip(batch.inputs, keys, strict=True)), stamp, rules, stored_as)
    )


def _names(
    view: CacheView, query: EmbeddingQuery, scope: str, stored_as: str, inputs: Iterable[Any]
) -> list[str] | str:
    """The keys, or why there can be none."""
    if not 0 < len(query.model) <= MAX_MODEL_LENGTH:
        return "model-name"
    try:
        return embedding_keys.names(view.secret, view.layout, scope, query, inputs, stored_as=stored_as)
    except NotCanonicalError:
        return "not-canonical"


def _worn(data: bytes, now_ms: int) -> bool:
    """In the second half of its time to live: an entry in steady use is written twice in that time, not at every
    hit."""
    stored_at_ms, ttl_ms = expiry_of(data)
    return now_ms - stored_at_ms > ttl_ms / 2


def _widened(payloads: dict[Hashable, bytes], stored_as: str) -> dict[Hashable, Blob]:
    if stored_as == FLOAT32:
        return payloads
    return {item: from_half(payload) for item, payload in payloads.items()}


def _rounded(
    fresh: dict[Hashable, Blob], stored_as: str
) -> tuple[dict[Hashable, Blob], dict[Hashable, bytes]]:
    """The vectors as every later answer will have them, and what is stored; a vector that the format cannot hold
    is returned as it is and not stored."""
    if stored_as == FLOAT32:
        return fresh, fresh
    halves = {item: half for item, blob in fresh.items() if (half := to_half(blob)) is not None}
    return {**fresh, **_widened(halves, stored_as)}, halves


async def _missing(embed: Embed, batch: _Batch, known: Mapping[Hashable, Blob]) -> dict[Hashable, Blob]:
    """Vectors for the inputs that are not known; for all of them where the provider's dimension changed."""
    missing = [item for item in batch.inputs if item not in known]
    if not missing:
        return {}
    fresh = await _compute(embed, batch, missing)
    changed = known and len(next(iter(known.values()))) != len(fresh[missing[0]])
    return {**fresh, **await _compute(embed, batch, list(known))} if changed else fresh


async def _compute(embed: Embed, batch: _Batch, items: list[Hashable]) -> dict[Hashable, Blob]:
    """Ask the provider, and match its vectors with the inputs by index."""
    vectors, dimensions = await embed([batch.inputs[item] for item in items]), batch.query.dimensions
    indexes = sorted(vector.index for vector in vectors)
    if indexes != list(range(len(items))):
        raise EmbeddingError(
            f"the provider was asked for {len(items)} embeddings and returned {len(vectors)}, "
            "or did not number them from 0"
        )
    blobs = {items[vector.index]: to_blob(vector.values) for vector in vectors}
    sizes = {len(blob) // 4 for blob in blobs.values()}
    if len(sizes) > 1 or (dimensions is not None and sizes != {dimensions}):
        wanted = f"{dimensions}" if dimensions is not None else "one number"
        raise EmbeddingError(
            f"the provider returned embeddings of {', '.join(map(str, sorted(sizes)))} dimensions, "
            f"and {wanted} was expected"
        )
    return blobs
