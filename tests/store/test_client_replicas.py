"""Clients of two replicas over one real server: what they share, and what is left of it without the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from fastapi import FastAPI
from langchain_core.outputs import Generation
from tests.clients import ACME, GLOBEX, HI, Trial
from tests.replicas import until
from tests.servers import Server

from cachepolicy import Duration
from cachepolicy.stamps import Scope
from cachepolicy_runtime import acting_as, standin
from cachepolicy_runtime.clients.langchain import RuntimeCache
from cachepolicy_runtime.clients.langchain_store import RuntimeByteStore
from cachepolicy_runtime.runtime import CacheRuntime


def runtime_at(url: str, folder: Path) -> CacheRuntime:
    key = folder / "hmac-key"
    key.write_text("an-hmac-key-of-a-test-long-enough")
    environ = {"REDIS_URL": url, "CACHE_HMAC_KEY_FILE": str(key), "CACHEPOLICY_DEADLINE_MS": "3000"}
    return CacheRuntime.from_env(identify=lambda scope: None, environ=environ)


@pytest.fixture
def provider() -> FastAPI:
    return standin.create_app(Duration(0))


@pytest.fixture
async def replicas(real_server: Server, tmp_path: Path, provider: FastAPI) -> AsyncIterator[list[Trial]]:
    """Once for each kind of server that is a process."""
    async with AsyncExitStack() as stack:
        made = [Trial(runtime_at(real_server.url, tmp_path), provider) for _ in range(2)]
        for one in made:
            await stack.enter_async_context(one.runtime.lifespan())
        yield made


async def test_what_one_replica_was_answered_the_other_has(replicas: list[Trial]) -> None:
    first, second = replicas
    await first.openai().chat.completions.create(model="gpt-x", messages=HI)
    await first.openai().embeddings.create(model="embed-x", input=["one", "two"])
    raw = await second.openai().chat.completions.with_raw_response.create(model="gpt-x", messages=HI)
    await second.openai().embeddings.create(model="embed-x", input=["two", "three"])
    assert raw.headers["cache-status"].startswith("CachePolicy; hit; ttl=")
    await second.openai(GLOBEX).chat.completions.create(model="gpt-x", messages=HI)
    assert (await first.asked(), await first.asked("texts")) == (2, 3)


async def test_a_function_runs_once_over_all_replicas(replicas: list[Trial]) -> None:
    ran: list[int] = []

    async def slow(number: int) -> int:
        ran.append(number)
        await asyncio.sleep(0.05)
        return number

    functions = [one.runtime.cached(name="slow", tags=("slow",))(slow) for one in replicas]
    with acting_as(ACME):
        calls = [functions[number % 2](7) for number in range(50)]
        assert await asyncio.gather(*calls) == [7] * 50
        assert ran == [7]
        await replicas[0].runtime.clear(Scope(tags=("slow",)))

        async def anew() -> bool:
            return await functions[1](7) == 7 and len(ran) == 2

        await until(anew)


async def test_langchain_shares_generations_and_bytes(replicas: list[Trial]) -> None:
    caches = [RuntimeCache(one.runtime, identity=ACME) for one in replicas]
    stores = [RuntimeByteStore(one.runtime, "vectors", identity=ACME) for one in replicas]
    await caches[0].aupdate("Hi", "model", [Generation(text="Hello.")])
    assert await caches[1].alookup("Hi", "model") == [Generation(text="Hello.")]
    await stores[0].amset([(f"key-{number}", b"\x00%d" % number) for number in range(1200)])
    assert await stores[1].amget(["key-7", "key-8000"]) == [b"\x007", None]
    assert len([key async for key in stores[1].ayield_keys(prefix="key-1")]) == 311
    await stores[1].amdelete(["key-7"])
    assert await stores[0].amget(["key-7"]) == [None]


async def test_without_the_server_everything_is_answered_all_the_same(
    tmp_path: Path, provider: FastAPI
) -> None:
    sut = Trial(runtime_at("redis://127.0.0.1:9", tmp_path), provider)

    @sut.runtime.cached()
    async def answer() -> int:
        return 1

    async with sut.runtime.lifespan():
        with acting_as(ACME):
            assert (await sut.openai().chat.completions.create(model="gpt-x", messages=HI)).choices
            assert (await sut.openai().embeddings.create(model="embed-x", input="one")).data
            assert await answer() == 1
            cache = RuntimeCache(sut.runtime)
            assert await cache.alookup("Hi", "model") is None
            await cache.aupdate("Hi", "model", [Generation(text="Hello.")])
