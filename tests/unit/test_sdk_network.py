"""SDKs, the runtime and a provider on a real socket: what takes time, breaks off or is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.clients import ACME, HI, Trial, served, trial
from tests.replicas import until

from cachepolicy_runtime import acting_as
from cachepolicy_runtime.clients.bridge import NotRunningError

POLICY: dict[str, Any] = {"responseCache": {"coalesce": {}}, "embeddingCache": {}}


@pytest.fixture
async def sut(tmp_path: Path) -> AsyncIterator[Trial]:
    async with trial(tmp_path, POLICY) as made:
        yield made


@asynccontextmanager
async def client_of(sut: Trial, **more: Any) -> AsyncIterator[AsyncOpenAI]:
    async with (
        served(sut.provider) as url,
        sut.runtime.http_client("openai", identity=ACME) as http,
        AsyncOpenAI(api_key="sk-test", base_url=f"{url}/v1", http_client=http, **more) as client,
    ):
        yield client


async def test_a_stream_is_not_held_back(sut: Trial) -> None:
    """The first word is there while the provider still writes."""
    async with client_of(sut) as client:
        stream = await client.chat.completions.create(
            model="gpt-x", messages=HI, stream=True, extra_headers={"x-standin": "delay=2s"}
        )
        async with stream:
            async for _ in stream:
                break
            assert await sut.asked("streamsFinished") == 0


async def test_a_stream_that_breaks_off_is_an_error_and_not_an_end(sut: Trial) -> None:
    async with client_of(sut) as client:
        stream = await client.chat.completions.create(
            model="gpt-x", messages=HI, stream=True, extra_headers={"x-standin": "drop=2"}
        )
        chunks = []
        with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
            chunks += [chunk async for chunk in stream]


async def test_a_timeout_is_the_sdks_own_and_nothing_is_kept(sut: Trial) -> None:
    async with client_of(sut, timeout=0.2, max_retries=0) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(
                model="gpt-x", messages=HI, extra_headers={"x-standin": "delay=5s"}
            )
        assert (await client.chat.completions.create(model="gpt-x", messages=HI)).choices


async def test_who_waits_for_another_ones_answer_waits_no_longer_than_he_said(sut: Trial) -> None:
    async with client_of(sut, max_retries=0) as client:
        slow = asyncio.create_task(
            client.chat.completions.create(
                model="gpt-x", messages=HI, extra_headers={"x-standin": "delay=5s"}
            )
        )
        await until(lambda: _asked(sut, 1))
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.2).chat.completions.create(model="gpt-x", messages=HI)
        assert await sut.asked() == 1
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)


async def test_a_cancelled_request_takes_nobody_with_it(sut: Trial) -> None:
    """The first of two identical requests is given up: the second gets its answer all the same."""
    async with client_of(sut, max_retries=0) as client:
        slow = asyncio.create_task(
            client.chat.completions.create(
                model="gpt-x", messages=HI, extra_headers={"x-standin": "delay=5s"}
            )
        )
        await until(lambda: _asked(sut, 1))
        waiting = asyncio.create_task(client.chat.completions.create(model="gpt-x", messages=HI))
        await asyncio.sleep(0)
        slow.cancel()
        assert (await waiting).choices
        with pytest.raises(asyncio.CancelledError):
            await slow


async def test_a_provider_that_is_not_there_is_the_sdks_connection_error(sut: Trial) -> None:
    async with sut.runtime.http_client("openai", identity=ACME) as http:
        client = AsyncOpenAI(
            api_key="sk-test", base_url="http://127.0.0.1:9/v1", http_client=http, max_retries=0
        )
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(model="gpt-x", messages=HI)


# --- threads ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def thread_client_of(sut: Trial, **more: Any) -> AsyncIterator[OpenAI]:
    async with served(sut.provider) as url:
        http = sut.runtime.thread_client("openai")
        try:
            yield OpenAI(api_key="sk-test", base_url=f"{url}/v1", http_client=http, **more)
        finally:
            await asyncio.to_thread(http.close)


async def test_threads_share_the_cache_and_carry_their_caller(sut: Trial) -> None:
    async with thread_client_of(sut) as client:

        def work() -> str | None:
            return client.chat.completions.create(model="gpt-x", messages=HI).choices[0].message.content

        with acting_as(ACME):
            first = await asyncio.to_thread(work)
            second = await asyncio.to_thread(work)
        assert first == second
        assert await sut.asked() == 1
        await asyncio.to_thread(work)  # for nobody: not from the cache
        assert await sut.asked() == 2


async def test_a_thread_reads_a_stream_as_it_comes(sut: Trial) -> None:
    async with thread_client_of(sut) as client:

        def work() -> list[str]:
            with client.chat.completions.create(model="gpt-x", messages=HI, stream=True) as stream:
                return [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]

        with acting_as(ACME):
            assert len(await asyncio.to_thread(work)) > 1


async def test_a_synchronous_client_on_the_loop_would_wait_for_itself(sut: Trial) -> None:
    async with thread_client_of(sut) as client:
        with pytest.raises(NotRunningError, match="use the asynchronous client"):
            client.chat.completions.create(model="gpt-x", messages=HI)


async def test_threads_are_told_when_the_runtime_does_not_run() -> None:
    async with trial() as sut:
        client = OpenAI(api_key="sk-test", http_client=sut.runtime.thread_client("openai"))
    with pytest.raises(NotRunningError, match="enter its lifespan first"):
        await asyncio.to_thread(client.models.list)


async def test_a_client_of_another_event_loop_is_told_so(sut: Trial) -> None:
    """The connections to Redis are the runtime's loop's own."""
    client = sut.openai(max_retries=0)

    def elsewhere() -> None:
        asyncio.run(client.chat.completions.create(model="gpt-x", messages=HI))

    with pytest.raises(NotRunningError, match="thread_client"):
        await asyncio.to_thread(elsewhere)


async def _asked(sut: Trial, times: int) -> bool:
    return await sut.asked("atOnce") >= times
