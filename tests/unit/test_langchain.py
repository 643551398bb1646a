"""LangChain's cache and embeddings, by LangChain's own standard tests and by what the runtime promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from langchain_core.caches import BaseCache
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.stores import BaseStore
from langchain_tests.integration_tests import (
    AsyncCacheTestSuite,
    BaseStoreAsyncTests,
    BaseStoreSyncTests,
    EmbeddingsIntegrationTests,
    SyncCacheTestSuite,
)
from pydantic import Field
from tests.clients import ACME, GLOBEX, Trial, trial

from cachepolicy.stamps import Scope
from cachepolicy_runtime import acting_as
from cachepolicy_runtime.clients.langchain import CachedEmbeddings, RuntimeCache
from cachepolicy_runtime.clients.langchain_json import decoded, encoded
from cachepolicy_runtime.clients.langchain_store import RuntimeByteStore
from cachepolicy_runtime.runtime import CacheRuntime


def memory_runtime() -> CacheRuntime:
    return CacheRuntime.from_env(identify=lambda scope: None, environ={})


class TestSync(SyncCacheTestSuite):
    """LangChain's tests of a cache for threads."""

    @pytest.fixture
    def cache(self) -> Iterator[BaseCache]:
        runtime = memory_runtime()
        with runtime.running():
            yield RuntimeCache(runtime, identity=ACME)


class TestAsync(AsyncCacheTestSuite):
    """LangChain's tests of a cache for an event loop."""

    @pytest.fixture
    async def cache(self) -> AsyncIterator[BaseCache]:
        runtime = memory_runtime()
        async with runtime.lifespan():
            yield RuntimeCache(runtime, identity=ACME)


class OurEmbeddings(CachedEmbeddings):
    """What LangChain's tests make of parameters alone."""

    runtime: CacheRuntime

    def __init__(self, size: int) -> None:
        super().__init__(self.runtime, DeterministicFakeEmbedding(size=size), model="fake", identity=ACME)


class TestEmbeddings(EmbeddingsIntegrationTests):
    """LangChain's tests of embeddings."""

    @pytest.fixture(autouse=True)
    def _running(self, request: pytest.FixtureRequest) -> Iterator[None]:
        OurEmbeddings.runtime = memory_runtime()
        with OurEmbeddings.runtime.running():
            yield

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OurEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"size": 6}


@pytest.fixture
async def sut() -> AsyncIterator[Trial]:
    async with trial() as made:
        yield made


def said(text: str, **metadata: Any) -> ChatGeneration:
    return ChatGeneration(message=AIMessage(text, response_metadata=metadata))


async def test_a_model_is_asked_once_for_each_tenant(sut: Trial) -> None:
    answers = iter([AIMessage("one"), AIMessage("two"), AIMessage("three")])
    model = GenericFakeChatModel(messages=answers, cache=RuntimeCache(sut.runtime))
    with acting_as(ACME):
        assert [(await model.ainvoke("Hi")).content for _ in range(2)] == ["one", "one"]
    with acting_as(GLOBEX):
        assert (await model.ainvoke("Hi")).content == "two"
    assert (await model.ainvoke("Hi")).content == "three"


async def test_clear_empties_the_callers_tenant_and_nothing_else(sut: Trial) -> None:
    acme, globex = (RuntimeCache(sut.runtime, identity=who) for who in (ACME, GLOBEX))
    client = sut.openai()
    for cache in (acme, globex):
        await cache.aupdate("Hi", "model", [Generation(text="Hello.")])
    await client.chat.completions.create(model="gpt-x", messages=[{"role": "user", "content": "Hi"}])
    await acme.aclear()
    assert await acme.alookup("Hi", "model") is None
    assert await globex.alookup("Hi", "model") is not None
    await client.chat.completions.create(model="gpt-x", messages=[{"role": "user", "content": "Hi"}])
    assert await sut.asked() == 1


async def test_what_was_purged_while_the_model_thought_does_not_come_back(sut: Trial) -> None:
    cache = RuntimeCache(sut.runtime, identity=ACME)
    assert await cache.alookup("Hi", "model") is None
    await sut.runtime.clear(Scope(tenant="acme"))
    await cache.aupdate("Hi", "model", [Generation(text="of before")])
    assert await cache.alookup("Hi", "model") is None


async def test_a_policy_and_a_purge_know_the_models_name(sut: Trial) -> None:
    described = '{"kwargs": {"model_name": "gpt-x"}}---[]'
    cache = RuntimeCache(sut.runtime, identity=ACME)
    await cache.aupdate("Hi", described, [Generation(text="Hello.")])
    await sut.runtime.clear(Scope(model="gpt-y"))
    assert await cache.alookup("Hi", described) is not None
    await sut.runtime.clear(Scope(model="gpt-x"))
    assert await cache.alookup("Hi", described) is None


@pytest.mark.parametrize(
    "generation",
    [
        said("cut o", finish_reason="length"),
        said("cut o", stop_reason="max_tokens"),
        said(""),
        said("the key is sk-ant-api03-" + "a1B2" * 24),
        Generation(text="cut o", generation_info={"finish_reason": "length"}),
        ChatGeneration(
            message=AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Ulm"}, "id": "1"}])
        ),
    ],
    ids=["length", "max_tokens", "empty", "credential", "text", "tool"],
)
async def test_what_is_no_whole_answer_is_not_kept(sut: Trial, generation: Generation) -> None:
    cache = RuntimeCache(sut.runtime, identity=ACME)
    await cache.aupdate("Hi", "model", [generation])
    assert await cache.alookup("Hi", "model") is None


async def test_calls_of_tools_are_kept_where_the_policy_allows_them(tmp_path: Path) -> None:
    generation = ChatGeneration(
        message=AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Ulm"}, "id": "1"}])
    )
    async with trial(tmp_path, {"responseCache": {"cacheable": {"toolCalls": "Allow"}}}) as sut:
        cache = RuntimeCache(sut.runtime, identity=ACME)
        await cache.aupdate("Hi", "model", [generation])
        assert await cache.alookup("Hi", "model") == [generation]


@pytest.mark.parametrize(
    "payload",
    [
        b"no json",
        b'{"kind": "Generation"}',
        b'[{"kind": "Popen", "text": "id", "info": null}]',
        b'[{"kind": "ChatGeneration", "info": null, "message": {"type": "system_exit", "data": {}}}]',
        b'[{"lc": 1, "type": "constructor", "id": ["langchain_core", "prompts", "PromptTemplate"], "kwargs": {}}]',
        b"\x80\x04\x95.",
    ],
)
def test_what_is_no_generation_is_a_miss_and_makes_no_object(payload: bytes) -> None:
    assert decoded(payload) is None


def test_an_object_of_langchain_within_a_generation_stays_plain_data() -> None:
    planted = {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]}
    payload = encoded([Generation(text="x", generation_info={"planted": planted})])
    assert payload is not None
    found = decoded(payload)
    assert found is not None
    assert found[0].generation_info == {"planted": planted}


def test_what_would_come_back_as_something_else_is_not_stored() -> None:
    class Odd(Generation):
        """A class of an application."""

    assert encoded([Odd(text="x")]) is None
    assert encoded([Generation(text="x", generation_info={"pair": (1, 2)})]) is None
    assert encoded([Generation(text="x", generation_info={"at": object()})]) is None
    assert orjson.loads(encoded([Generation(text="x")]) or b"null")[0]["kind"] == "Generation"


class Counting(DeterministicFakeEmbedding):
    """Fake embeddings that say what they were asked."""

    asked: list[str] = Field(default_factory=list)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked.extend(texts)
        return super().embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        self.asked.append(f"? {text}")
        return super().embed_query(text)


async def test_embeddings_are_computed_text_by_text_and_queries_apart(sut: Trial) -> None:
    inner = Counting(size=4)
    embeddings = CachedEmbeddings(sut.runtime, inner, model="fake")
    with acting_as(ACME):
        first = await embeddings.aembed_documents(["one", "two", "one"])
        again = await asyncio.to_thread(embeddings.embed_documents, ["two", "three"])
        await embeddings.aembed_query("one")
        await asyncio.to_thread(embeddings.embed_query, "one")
    assert first[0] == first[2]
    assert again[0] == first[1]
    assert first[0] == pytest.approx(DeterministicFakeEmbedding(size=4).embed_query("one"))
    asked = [text for text in inner.asked if not text.startswith("?")]
    assert sorted(asked) == ["one", "three", "two"]


class TestByteStore(BaseStoreSyncTests[bytes]):
    """LangChain's tests of a store for threads."""

    @pytest.fixture
    def kv_store(self) -> Iterator[BaseStore[str, bytes]]:
        runtime = memory_runtime()
        with runtime.running():
            yield RuntimeByteStore(runtime, "vectors", identity=ACME)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"\x00one", b"\xfftwo", b"three"


class TestByteStoreAsync(BaseStoreAsyncTests[bytes]):
    """LangChain's tests of a store for an event loop."""

    @pytest.fixture
    async def kv_store(self) -> AsyncIterator[BaseStore[str, bytes]]:
        runtime = memory_runtime()
        async with runtime.lifespan():
            yield RuntimeByteStore(runtime, "vectors", identity=ACME)

    @pytest.fixture
    def three_values(self) -> tuple[bytes, bytes, bytes]:
        return b"\x00one", b"\xfftwo", b"three"


async def test_namespaces_and_tenants_have_stores_of_their_own_and_nobody_has_none(sut: Trial) -> None:
    store, other = RuntimeByteStore(sut.runtime, "a"), RuntimeByteStore(sut.runtime, "b")
    with acting_as(ACME):
        await store.amset([("one", b"1")])
        assert await other.amget(["one"]) == [None]
    for identity in (GLOBEX, None):
        with acting_as(identity):
            assert await store.amget(["one"]) == [None]
            assert [key async for key in store.ayield_keys()] == []
    await store.amset([("two", b"2")])
    await store.amdelete(["one", "two"])
    with acting_as(ACME):
        assert await store.amget(["one", "two"]) == [b"1", None]


async def test_what_was_deleted_is_gone_also_where_processes_keep_a_first_level(tmp_path: Path) -> None:
    async with trial(tmp_path, {"responseCache": {"local": {}}}) as sut:
        store = RuntimeByteStore(sut.runtime, "a", identity=ACME)
        await store.amset([("one", b"1"), ("two", b"2")])
        assert await store.amget(["one", "two"]) == [b"1", b"2"]
        await store.amdelete(["one"])
        assert await store.amget(["one", "two"]) == [None, b"2"]


async def test_keys_of_what_was_purged_are_not_listed(sut: Trial) -> None:
    store = RuntimeByteStore(sut.runtime, "a", identity=ACME)
    await store.amset([("one", b"1")])
    await sut.runtime.clear(Scope(tenant="acme"))
    await store.amset([("two", b"2")])
    assert [key async for key in store.ayield_keys()] == ["two"]
