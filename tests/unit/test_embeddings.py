"""The embedding cache: each text once, in order, and never a vector of another text."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.caches import AwayStore, Clock, Policy, SpyStore

from cachepolicy import Identity
from cachepolicy.caches import CacheMode, EmbeddingCache, ExpireAfter, VectorEncoding
from cachepolicy.durations import Duration
from cachepolicy.purge import Purge
from cachepolicy_runtime.embedding_entries import PART
from cachepolicy_runtime.embeddings import Embedded, EmbeddingError, Embeddings, IndexedVector
from cachepolicy_runtime.store.port import StoreUnavailable
from cachepolicy_runtime.vectors import to_blob, to_floats

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


async def test_a_large_batch_takes_several_commands() -> None:
    """So that none is an answer of megabytes."""
    store, provider = SpyStore(), Provider()
    texts = [f"text {number}" for number in range(PART + 1)]
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
        ([IndexedVector(0, ["x"]), IndexedVector(1, [1.0])], "list of numbers"),  # what a provider may send
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
    """Callers choose it; the provider answers as it likes. Not a part of a stamp either."""
    store, provider = SpyStore(), Provider()
    policy = Policy(store=store, stamps={"all": "1", "model=x": "2"})
    got = await embed(Embeddings(policy.view), provider, ["a"], model=model)
    assert got.bypass == "model-name"
    assert store.items == {}


def vector_of_tokens(tokens: Sequence[int]) -> list[float]:
    return [float(sum(tokens)), float(len(tokens)), -1.0]


class TokenProvider:
    """Remembers the lists of tokens that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[list[int]]] = []

    async def __call__(self, inputs: list[list[int]]) -> Sequence[IndexedVector]:
        self.asked.append(inputs)
        return [IndexedVector(index, vector_of_tokens(tokens)) for index, tokens in enumerate(inputs)]


async def test_lists_of_tokens_are_inputs_like_texts() -> None:
    """Each once, in order, and as lists, whatever the caller gave."""
    provider, cache = TokenProvider(), Embeddings(Policy().view)
    await cache.get_or_embed([7, 8], provider, model="m", identity=WHO)
    got = await cache.get_or_embed([[1], [7, 8], [1], [2]], provider, model="m", identity=WHO)
    assert provider.asked == [[[7, 8]], [[1], [2]]]
    assert got.vectors == [vector_of_tokens(tokens) for tokens in ([1], [7, 8], [1], [2])]
    assert (got.hits, got.computed) == (1, 2)


async def test_one_text_is_a_batch_of_one() -> None:
    """And not a batch of its letters."""
    provider = Provider()
    got = await Embeddings(Policy().view).get_or_embed("abc", provider, model="m", identity=WHO)
    assert provider.asked == [["abc"]]
    assert got.vectors == [vector_of("abc")]


async def test_inputs_of_no_known_form_are_refused_before_anybody_is_asked() -> None:
    provider, given_ = Provider(), cast("list[str]", [1.5])
    with pytest.raises(ValueError, match="inputs are"):
        await Embeddings(Policy().view).get_or_embed(given_, provider, model="m", identity=WHO)
    assert provider.asked == []


async def test_the_result_comes_in_every_form() -> None:
    """Lists, arrays, a numpy array and the base64 of OpenAI's API."""
    numpy = pytest.importorskip("numpy")
    got = await embed(Embeddings(Policy().view), Provider(), ["a", "bb"])
    assert [array.tolist() for array in got.arrays()] == got.vectors == got.numpy().tolist()
    assert (got.numpy().dtype, got.numpy().shape) == (numpy.float32, (2, 3))
    assert [base64.b64decode(text) for text in got.base64] == list(got.blobs)
    nothing = await embed(Embeddings(Policy().view), Provider(), [])
    assert nothing.numpy().shape == (0, 0)


@pytest.mark.parametrize("encoding", list(VectorEncoding))
async def test_the_first_answer_equals_every_later_one_in_each_encoding(encoding: VectorEncoding) -> None:
    """And half precision takes half the bytes."""
    store = SpyStore()
    cache = Embeddings(Policy(store=store, embeddings=EmbeddingCache(encoding=encoding)).view)

    async def thirds(texts: list[str]) -> Sequence[IndexedVector]:
        return [IndexedVector(index, [1 / 3] * 1000) for index in range(len(texts))]

    first = await cache.get_or_embed(["a", "b"], thirds, model="m", identity=WHO)
    second = await cache.get_or_embed(["b", "a"], thirds, model="m", identity=WHO)
    assert (second.computed, set(map(len, second.blobs))) == (0, {4000})
    assert first.vectors == second.vectors
    width = {VectorEncoding.FLOAT32: 4, VectorEncoding.FLOAT16: 2}[encoding]
    assert all(width * 1000 < len(item.value) < width * 1000 + 100 for item in store.items.values())


async def test_a_vector_that_half_precision_cannot_hold_is_returned_and_not_stored() -> None:
    """The other one of the batch is stored."""
    store, asked = SpyStore(), []
    cache = Embeddings(Policy(store=store, embeddings=EmbeddingCache(encoding=VectorEncoding.FLOAT16)).view)

    async def call(texts: list[str]) -> Sequence[IndexedVector]:
        asked.append(texts)
        return [IndexedVector(index, [70_000.0 if text == "a" else 1.0]) for index, text in enumerate(texts)]

    for _ in range(2):
        got = await cache.get_or_embed(["a", "b"], call, model="m", identity=WHO)
        assert got.vectors == [[70_000.0], [1.0]]
    assert asked == [["a", "b"], ["a"]]
    assert cache.counts.not_stored == {"out-of-range": 2}


async def test_another_encoding_has_entries_of_its_own() -> None:
    """A rounded vector is another vector."""
    policy, provider = Policy(), Provider()
    cache = Embeddings(policy.view)
    await embed(cache, provider, ["a"])
    policy.embeddings = EmbeddingCache(encoding=VectorEncoding.FLOAT16)
    assert (await embed(cache, provider, ["a"])).computed == 1
    policy.embeddings = EmbeddingCache()
    assert (await embed(cache, provider, ["a"])).computed == 0


async def test_in_shadow_mode_the_provider_is_asked_each_time_and_the_hits_are_counted() -> None:
    """What is stored is stored once, and what is served is the provider's, not rounded either."""
    store, provider = SpyStore(), Provider()
    rules = EmbeddingCache(mode=CacheMode.SHADOW, encoding=VectorEncoding.FLOAT16)
    cache = Embeddings(Policy(store=store, embeddings=rules).view)
    await embed(cache, provider, ["a"])
    stored = dict(store.items)
    got = await embed(cache, provider, ["a"])
    assert provider.asked == [["a"], ["a"]]
    assert got.vectors == [vector_of("a")]
    assert (got.hits, got.computed, got.bypass) == (0, 1, "shadow")
    assert (store.items, cache.counts.stored) == (stored, 1)
    assert cache.counts.as_dict()["wouldHits"] == 1


async def test_a_cache_that_is_off_neither_reads_nor_stores() -> None:
    store, provider = SpyStore(), Provider()
    cache = Embeddings(Policy(store=store, embeddings=EmbeddingCache(mode=CacheMode.OFF)).view)
    assert (await embed(cache, provider, ["a"])).bypass == "off"
    assert (store.trips, store.items) == ([], {})


@pytest.mark.parametrize(
    ("expire_after", "renewed"), [(ExpireAfter.ACCESS, True), (ExpireAfter.WRITE, False)]
)
async def test_a_use_in_the_second_half_of_its_time_renews_an_entry(
    expire_after: ExpireAfter, renewed: bool
) -> None:
    """One write for each half of the time to live, not one at each hit; and only where the policy asks for it."""
    clock, store, provider = Clock(), SpyStore(), Provider()
    rules = EmbeddingCache(ttl=Duration.parse("10s"), expire_after=expire_after)
    cache = Embeddings(Policy(store=store, embeddings=rules).view, now_ms=clock)
    await embed(cache, provider, ["a"])
    writes = []
    for _ in range(6):
        before = dict(store.items)
        clock.ms += 3000
        await embed(cache, provider, ["a"])
        writes.append(store.items != before)
    assert writes == ([False, True] * 3 if renewed else [False] * 6)
    assert provider.asked == [["a"]]
    assert (await embed(cache, provider, ["a"])).vectors == [vector_of("a")]


class PartlyAway(SpyStore):
    """Answers some calls and fails the others."""

    def __init__(self, answers: list[bool]) -> None:
        super().__init__()
        self.answers = answers

    async def mget(self, keys: object) -> list[bytes | None]:
        self._answer()
        return await super().mget(keys)

    async def mput(self, items: Any) -> None:
        self._answer()
        await super().mput(items)

    def _answer(self) -> None:
        if not self.answers.pop(0):
            raise StoreUnavailable("cache", "connection reset")


async def test_what_was_read_before_the_store_failed_is_used() -> None:
    """And the rest is asked for and kept in this process."""
    texts = [f"text {number}" for number in range(2 * PART)]
    store, provider = PartlyAway([True] * 4 + [True, False] + [True, False]), Provider()
    cache = Embeddings(Policy(store=store).view)
    await embed(cache, provider, texts)
    got = await embed(cache, provider, texts)
    assert (got.hits, got.computed) == (PART, PART)
    assert got.vectors == [vector_of(text) for text in texts]
    assert (await embed(cache, provider, texts)).computed == 0


async def test_what_could_not_be_stored_is_kept_in_this_process() -> None:
    """While the store is away, nobody pays twice."""
    store, provider = PartlyAway([True, False, False]), Provider()
    cache = Embeddings(Policy(store=store).view)
    await embed(cache, provider, ["a"])
    assert (await embed(cache, provider, ["a"])).computed == 0
    assert provider.asked == [["a"]]


@given(st.data())
async def test_whatever_happens_to_the_stored_bytes_every_text_gets_its_own_vector(
    data: st.DataObject,
) -> None:
    """Damaged, cut off, or moved under each other's names: misses, never another vector."""
    store, provider = SpyStore(), Provider()
    cache = Embeddings(Policy(store=store).view)
    texts = ["a", "bb", "ccc"]
    await embed(cache, provider, texts)
    names = list(store.items)
    for name in names:
        value = store.items[data.draw(st.sampled_from(names))].value
        start = data.draw(st.integers(0, len(value)))
        end = data.draw(st.integers(start, len(value)))
        await store.put(name, value[:start] + data.draw(st.binary(max_size=8)) + value[end:], 1000)
    got = await embed(cache, provider, texts)
    assert got.vectors == [vector_of(text) for text in texts]


async def test_a_model_that_no_json_can_name_bypasses_the_cache() -> None:
    """The provider says what it thinks of it."""
    got = await embed(Embeddings(Policy().view), Provider(), ["a"], model="\ud800")
    assert got.bypass == "not-canonical"
