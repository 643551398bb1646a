"""The embedding cache: each text once, in order, and never a vector of another text."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.caches import AwayStore, Policy, SpyStore

from cachepolicy import Identity
from cachepolicy.purge import Purge
from cachepolicy_runtime.embeddings import (
    ROUND_TRIP,
    Embedded,
    EmbeddingError,
    Embeddings,
    IndexedVector,
    to_blob,
    to_floats,
)

WHO = Identity("acme", "alice")


def vector_of(text: str, size: int = 3) -> list[float]:
    return [float(len(text)), float(sum(text.encode())), *([0.5] * (size - 2))]


class Provider:
    """A provider that returns its vectors in some order; remembers what it was asked for."""

    def __init__(
        self, order: Callable[[list[IndexedVector]], list[IndexedVector]] = list, size: int = 3
    ) -> None:
        self.asked: list[list[str]] = []
        self.order = order
        self.size = size

    async def __call__(self, texts: list[str]) -> Sequence[IndexedVector]:
        self.asked.append(texts)
        vectors = [IndexedVector(index, vector_of(text, self.size)) for index, text in enumerate(texts)]
        return self.order(vectors)


async def embed(
    cache: Embeddings,
    provider: Provider,
    texts: Sequence[str],
    *,
    model: str = "m",
    who: Identity | None = WHO,
) -> Embedded:
    return await cache.get_or_embed(texts, provider, model=model, identity=who)


async def test_only_what_is_missing_is_asked_for_and_the_order_is_kept() -> None:
    """A partial hit in the middle, with the provider answering backwards."""
    provider = Provider(lambda vectors: vectors[::-1])
    cache = Embeddings(Policy().view)
    await embed(cache, provider, ["b", "dd"])
    got = await embed(cache, provider, ["a", "b", "ccc", "dd", "e"])
    assert provider.asked == [["b", "dd"], ["a", "ccc", "e"]]
    assert got.vectors == [vector_of(text) for text in ["a", "b", "ccc", "dd", "e"]]
    assert (got.hits, got.computed) == (2, 3)
    assert got.cache_status == 'CachePolicy; fwd=partial; detail="2 known, 3 computed"'


async def test_a_text_given_twice_is_computed_once() -> None:
    """And stands at both places."""
    provider = Provider()
    got = await embed(Embeddings(Policy().view), provider, ["a", "b", "a", "a"])
    assert provider.asked == [["a", "b"]]
    assert got.vectors == [vector_of("a"), vector_of("b"), vector_of("a"), vector_of("a")]


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=10), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
async def test_every_text_gets_its_own_vector_whatever_came_before(
    batches: list[list[str]], random: object
) -> None:
    """Any batches, any order of the provider."""

    def shuffled(vectors: list[IndexedVector]) -> list[IndexedVector]:
        random.shuffle(vectors)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
        return vectors

    provider = Provider(shuffled)
    cache = Embeddings(Policy().view)
    for texts in batches:
        got = await embed(cache, provider, texts)
        assert got.vectors == [vector_of(text) for text in texts]
    asked = [text for texts in provider.asked for text in texts]
    assert sorted(asked) == sorted({text for texts in batches for text in texts})


async def test_a_batch_that_is_known_asks_nobody() -> None:
    """One round trip to the store."""
    store, provider = SpyStore(), Provider()
    cache = Embeddings(Policy(store=store).view)
    await embed(cache, provider, ["a", "b"])
    got = await embed(cache, provider, ["b", "a"])
    assert len(provider.asked) == 1
    assert store.trips == ["mget", "mget"]
    assert got.cache_status == "CachePolicy; hit"


async def test_a_very_large_batch_takes_several_round_trips() -> None:
    """So that none outlasts the store's deadline."""
    store, provider = SpyStore(), Provider()
    texts = [f"text {number}" for number in range(ROUND_TRIP + 1)]
    got = await embed(Embeddings(Policy(store=store).view), provider, texts)
    assert store.trips == ["mget", "mget"]
    assert got.vectors == [vector_of(text) for text in texts]


async def test_an_empty_batch_asks_nobody() -> None:
    """No texts, no vectors."""
    provider = Provider()
    assert (await embed(Embeddings(Policy().view), provider, [])).blobs == ()
    assert provider.asked == []


async def test_vectors_are_little_endian_float32_and_the_first_answer_equals_the_second() -> None:
    """A vector is rounded before it is returned, not only when it is stored."""

    async def third(texts: list[str]) -> Sequence[IndexedVector]:
        return [IndexedVector(0, [1 / 3, -2.5])]

    cache = Embeddings(Policy().view)
    first = await cache.get_or_embed(["a"], third, model="m", identity=WHO)
    second = await cache.get_or_embed(["a"], third, model="m", identity=WHO)
    assert first.blobs == second.blobs == (struct.pack("<2f", 1 / 3, -2.5),)
    assert first.vectors == second.vectors
    assert to_floats(to_blob([0.5, 2.0])) == [0.5, 2.0]


@pytest.mark.parametrize(
    ("vectors", "what"),
    [
        ([], "asked for 2 embeddings and returned 0"),
        ([IndexedVector(0, [1.0])], "returned 1"),
        ([IndexedVector(0, [1.0]), IndexedVector(0, [1.0])], "number them from 0"),
        ([IndexedVector(1, [1.0]), IndexedVector(2, [1.0])], "number them from 0"),
        ([IndexedVector(0, [1.0]), IndexedVector(1, [1.0, 2.0])], "1, 2 dimensions"),
        ([IndexedVector(0, []), IndexedVector(1, [])], "empty"),
        ([IndexedVector(0, [float("nan")]), IndexedVector(1, [1.0])], "not finite"),
        ([IndexedVector(0, ["x"]), IndexedVector(1, [1.0])], "list of numbers"),  # type: ignore[list-item]  # what a provider may send
    ],
)
async def test_vectors_that_cannot_be_right_are_an_error_and_nothing_is_stored(
    vectors: list[IndexedVector], what: str
) -> None:
    """A wrong count, index, dimension or number."""
    store = SpyStore()

    async def call(texts: list[str]) -> Sequence[IndexedVector]:
        return vectors

    with pytest.raises(EmbeddingError, match=what):
        await Embeddings(Policy(store=store).view).get_or_embed(["a", "b"], call, model="m", identity=WHO)
    assert store.items == {}


async def test_the_dimension_that_was_asked_for_is_checked() -> None:
    """A provider that ignores the parameter is an error, not a cached surprise."""
    provider = Provider(size=3)
    cache = Embeddings(Policy().view)
    with pytest.raises(EmbeddingError, match="of 3 dimensions, and 2 was expected"):
        await cache.get_or_embed(["a"], provider, model="m", identity=WHO, dimensions=2)


async def test_dimensions_model_and_input_type_have_entries_of_their_own() -> None:
    """Each is part of the key."""
    provider = Provider()
    cache = Embeddings(Policy().view)
    await cache.get_or_embed(["a"], provider, model="m", identity=WHO)
    await cache.get_or_embed(["a"], provider, model="m2", identity=WHO)
    await cache.get_or_embed(["a"], provider, model="m", identity=WHO, dimensions=3)
    await cache.get_or_embed(["a"], provider, model="m", identity=WHO, input_type="query")
    await cache.get_or_embed(["a"], provider, model="m", identity=WHO, provider="p")
    assert len(provider.asked) == 5


async def test_a_provider_that_changed_its_dimension_is_asked_for_all() -> None:
    """Vectors of one answer always have one length."""
    provider = Provider(size=3)
    cache = Embeddings(Policy().view)
    await embed(cache, provider, ["a", "b"])
    provider.size = 4
    got = await embed(cache, provider, ["a", "c", "b"])
    assert got.vectors == [vector_of(text, 4) for text in ["a", "c", "b"]]
    assert (await embed(cache, provider, ["b", "a"])).computed == 0


async def test_tenants_never_share() -> None:
    """The tenant is part of the key."""
    provider = Provider()
    cache = Embeddings(Policy().view)
    await embed(cache, provider, ["a"])
    assert (await embed(cache, provider, ["a"], who=Identity("acme", "bob"))).computed == 0
    assert (await embed(cache, provider, ["a"], who=Identity("other", "alice"))).computed == 1


async def test_without_identity_nothing_is_read_or_stored() -> None:
    """And the batch is still answered in order."""
    store, provider = SpyStore(), Provider(lambda vectors: vectors[::-1])
    got = await embed(Embeddings(Policy(store=store).view), provider, ["b", "a", "b"], who=None)
    assert got.vectors == [vector_of(text) for text in ["b", "a", "b"]]
    assert got.cache_status == "CachePolicy; fwd=bypass; detail=no-identity"
    assert store.items == {}


async def test_the_store_away_never_stops_an_answer() -> None:
    """One question, and no attempt to store after it failed."""
    store, provider = AwayStore(), Provider()
    got = await embed(Embeddings(Policy(store=store).view), provider, ["a", "b"])
    assert got.vectors == [vector_of("a"), vector_of("b")]
    assert store.asked == 1


async def test_while_the_store_is_away_the_process_remembers_each_text() -> None:
    provider = Provider()
    cache = Embeddings(Policy(store=AwayStore()).view)
    await embed(cache, provider, ["a", "b"])
    got = await embed(cache, provider, ["b", "c", "a"])
    assert provider.asked == [["a", "b"], ["c"]]
    assert got.vectors == [vector_of(text) for text in ["b", "c", "a"]]


async def test_a_purge_makes_them_misses() -> None:
    """At runtime and by the policy."""
    policy, provider = Policy(), Provider()
    cache = Embeddings(policy.view)
    await embed(cache, provider, ["a"])
    policy.stamps = {"all": "2"}
    assert (await embed(cache, provider, ["a"])).computed == 1
    policy.purge = Purge(all="x")
    assert (await embed(cache, provider, ["a"])).computed == 1
    policy.stamps = None
    assert (await embed(cache, provider, ["a"])).bypass == "purge-state-unknown"


async def test_a_damaged_entry_is_a_miss() -> None:
    """One of two is damaged: the other one is still known."""
    store, provider = SpyStore(), Provider()
    cache = Embeddings(Policy(store=store).view)
    await embed(cache, provider, ["a", "b"])
    damaged = next(iter(store.items))
    await store.put(damaged, b"damage", 1000)
    got = await embed(cache, provider, ["a", "b"])
    assert (got.hits, got.computed) == (1, 1)
    assert got.vectors == [vector_of("a"), vector_of("b")]


@pytest.mark.parametrize("model", ["", "m" * 257])
async def test_a_name_that_no_model_has_never_becomes_a_key(model: str) -> None:
    """Callers choose it; the provider answers as it likes."""
    store, provider = SpyStore(), Provider()
    got = await embed(Embeddings(Policy(store=store).view), provider, ["a"], model=model)
    assert got.bypass == "model-name"
    assert store.items == {}
