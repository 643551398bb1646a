"""The embedding cache: one entry per input, so that a batch that is partly known costs only what is missing.

A vector is rounded to the format it is stored in before it is returned, so the first answer and every later
one are the same numbers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from cachepolicy.caches import CacheMode, EmbeddingCache
from cachepolicy.identity import Identity
from cachepolicy.keys import tenant_scope
from cachepolicy.stamps import Scope
from cachepolicy_runtime import embedding_keys
from cachepolicy_runtime.caching import CacheView, ViewSource, wall_clock_ms
from cachepolicy_runtime.embedded import Embedded
from cachepolicy_runtime.embedding_counts import EmbeddingCounts
from cachepolicy_runtime.embedding_entries import Entries, Places, stored_as
from cachepolicy_runtime.embedding_keys import EmbeddingQuery, Inputs, NotCanonicalError, inputs_of
from cachepolicy_runtime.keys import MAX_MODEL_LENGTH
from cachepolicy_runtime.vectors import Blob, EmbeddingError, IndexedVector, to_blob

__all__ = ["Embed", "Embedded", "EmbeddingError", "Embeddings", "IndexedVector", "inputs_of"]

KIND = "embeddings"

#: Gets the inputs that are missing, each once, and returns one vector for each, in any order.
Embed: TypeAlias = "Callable[[list[Any]], Awaitable[Sequence[IndexedVector]]]"


@dataclass(frozen=True, slots=True)
class _Batch:
    """The distinct inputs by what tells them apart, and what the provider is asked to make of them."""

    inputs: Mapping[Hashable, Any]
    query: EmbeddingQuery


class Embeddings:
    """See the module. One per process; ``counts`` is what it did, in inputs."""

    def __init__(self, view: ViewSource, *, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        self._view = view
        self._now_ms = now_ms
        self.counts = EmbeddingCounts()

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
        batch = _Batch(
            dict(zip(order, given, strict=True)), EmbeddingQuery(model, provider, dimensions, input_type)
        )
        places = _places(view, batch, identity)
        if isinstance(places, str):
            self.counts.bypassed[places] += 1
            vectors = await _compute(embed, batch, list(batch.inputs))
            return _embedded(vectors, order, len(vectors), places)
        entries = Entries(view, places, self.counts, self._now_ms)
        if places.rules.mode is CacheMode.SHADOW:
            return _embedded(await self._shadow(entries, batch, embed), order, len(batch.inputs), "shadow")
        known = await entries.read(dimensions)
        fresh = await _missing(embed, batch, known)
        self._count(batch.query, len(batch.inputs) - len(fresh), len(fresh))
        return _embedded({**known, **await entries.write(fresh)}, order, len(fresh))

    async def _shadow(self, entries: Entries, batch: _Batch, embed: Embed) -> dict[Hashable, Blob]:
        """What the provider says of everything; what the cache would have done is counted."""
        known = await entries.read(batch.query.dimensions)
        fresh = await _compute(embed, batch, list(batch.inputs))
        self.counts.would_lookups += len(batch.inputs)
        self.counts.would_hits += len(known)
        await entries.write({item: blob for item, blob in fresh.items() if item not in known})
        return fresh

    def _count(self, query: EmbeddingQuery, hits: int, misses: int) -> None:
        tally = self.counts.of(query.provider, query.model)
        tally.hits += hits
        tally.misses += misses


def _embedded(
    vectors: Mapping[Hashable, Blob], order: Sequence[Hashable], computed: int, bypass: str | None = None
) -> Embedded:
    return Embedded(tuple(map(vectors.__getitem__, order)), len(vectors) - computed, computed, bypass)


def _places(view: CacheView, batch: _Batch, identity: Identity | None) -> Places | str:
    """The places of the inputs, or one word for why this batch does not touch the cache."""
    rules, query = view.embeddings, batch.query
    if rules is None:
        return "no-policy"
    if identity is None:
        return "no-identity"
    if why := _unfit(rules, query):
        return why
    stamp = view.stamp_of(Scope(KIND, identity.tenant, query.provider, query.model))
    if stamp is None:
        return "purge-state-unknown"
    names = _names(view, batch, identity.tenant, stored_as(rules))
    return names if isinstance(names, str) else Places(names, stamp, rules)


def _unfit(rules: EmbeddingCache, query: EmbeddingQuery) -> str | None:
    if rules.mode is CacheMode.OFF:
        return "off"
    if not 0 < len(query.model) <= MAX_MODEL_LENGTH:
        return "model-name"
    return None


def _names(view: CacheView, batch: _Batch, tenant: str, stored: str) -> dict[Hashable, str] | str:
    """The key of each input, or why there can be none."""
    scope, inputs = tenant_scope(tenant), batch.inputs.values()
    try:
        keys = embedding_keys.names(view.secret, view.layout, scope, batch.query, inputs, stored_as=stored)
    except NotCanonicalError:
        return "not-canonical"
    return dict(zip(batch.inputs, keys, strict=True))


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
