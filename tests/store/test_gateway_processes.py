"""The reference Core with every program a process of its own: limits that several share, streams that break, callers
that go."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from tests.programs import GATEWAY, STANDIN, Program
from tests.replicas import Site, bearer, chat
from tests.servers import Server

from cachepolicy_runtime.usage import usage_of

HI: list[Any] = [{"role": "user", "content": "Hi"}]
HUGE: list[Any] = [{"role": "user", "content": "word " * 20_000}]
UNITS = 2_000
TOKENS = {
    "tokens": {"by": [{"type": "Tenant"}], "unit": "Tokens", "rates": [{"limit": UNITS, "window": "1h"}]}
}
CHAT = "/v1/chat/completions"


@dataclass
class Fleet:
    provider: Program
    cores: list[Program]


@pytest.fixture
def fleet(tmp_path: Path, valkey: Server) -> Iterator[Fleet]:
    """Two Cores that enforce a limit on tokens, and a provider that takes a second for a stream."""
    site = Site(tmp_path / "site", valkey.url)
    document = site.apply({"rateLimits": TOKENS})
    provider = Program(STANDIN, tmp_path / "standin.log", {"STANDIN_DELAY": "1s"})
    urls = {"CACHEPOLICY_UPSTREAM_URL": provider.url, "CACHEPOLICY_ANTHROPIC_URL": provider.url}
    cores = [
        Program(GATEWAY, tmp_path / f"{pod}.log", {**site.environ, **urls, "POD_NAME": pod})
        for pod in ("core-0", "core-1")
    ]
    try:
        for program in (provider, *cores):
            program.listens()
        for core in cores:
            until_enforced(core, document.revision)
        yield Fleet(provider, cores)
    finally:
        for program in (provider, *cores):
            program.process.kill()
            program.process.wait()


def until_enforced(core: Program, revision: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        health = httpx.get(f"{core.url}/cache/health").json()
        if (health["status"], health["revision"]) == ("up", revision):
            return
        time.sleep(0.02)
    pytest.fail(f"not enforced: {health}")


def left(core: Program) -> int:
    """What is left of the tokens; an input that never fits asks without counting."""
    refused = httpx.post(f"{core.url}{CHAT}", json=chat(messages=HUGE), headers=bearer("alice"))
    found = re.search(r'"tokens";r=(\d+)', refused.headers["ratelimit"])
    assert found is not None
    return int(found[1])


async def test_processes_together_never_give_more_tokens_than_the_limit(fleet: Fleet) -> None:
    """Whatever they are asked at once, and what the answers cost is counted to the token."""
    async with httpx.AsyncClient(headers=bearer("alice"), timeout=60) as client:

        async def ask(number: int) -> httpx.Response:
            body = chat(f"question {number}", max_tokens=64, metadata={"standin": "delay=50ms"})
            return await client.post(f"{fleet.cores[number % 2].url}{CHAT}", json=body)

        got = [await answer for answer in asyncio.as_completed([ask(number) for number in range(160)])]
    assert {answer.status_code for answer in got} == {200, 429}
    usages = [usage_of(answer.json()) for answer in got if answer.status_code == 200]
    spent = sum(usage.input + usage.output for usage in usages if usage)
    assert spent <= UNITS
    assert left(fleet.cores[0]) == left(fleet.cores[1]) == UNITS - spent


def test_a_caller_that_goes_pays_for_what_came(fleet: Fleet) -> None:
    """The input and the words that were streamed; what was set aside for the rest comes back."""
    core, other = fleet.cores
    body = chat(stream=True, max_tokens=500)
    with (
        httpx.Client(headers=bearer("alice")) as client,
        client.stream("POST", f"{core.url}{CHAT}", json=body) as answer,
    ):
        texts = answer.iter_text()  # it closes the stream when it is dropped
        text = next(texts)
        assert left(other) < UNITS - 400
    deadline = time.monotonic() + 10
    while left(other) < UNITS - 100 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "data:" in text
    assert UNITS - 100 <= left(other) < UNITS
    counts = httpx.get(f"{fleet.provider.url}/counts").json()
    assert (counts["streams"], counts["streamsFinished"]) == (1, 0)
    assert core.stop() == 0
    assert "Traceback" not in core.log.read_text()


def test_a_stream_that_the_provider_breaks_off_ends_with_an_error(fleet: Fleet) -> None:
    """In the shape of its API, so that no client takes a part for the whole; nothing is logged as a crash, and what
    came is paid."""
    core = fleet.cores[0]
    with openai.OpenAI(api_key="alice", base_url=f"{core.url}/v1", max_retries=0) as client:
        chunks = client.chat.completions.create(
            model="gpt-x", messages=HI, stream=True, metadata={"standin": "drop=4"}
        )
        with pytest.raises(openai.APIError, match="broke the connection off"):
            list(chunks)
    with anthropic.Anthropic(api_key="alice", base_url=core.url, max_retries=0) as other:
        events = other.messages.create(
            model="claude-x",
            messages=HI,
            max_tokens=64,
            stream=True,
            extra_body={"metadata": {"standin": "drop=6"}},
        )
        with pytest.raises(anthropic.APIStatusError, match="broke the connection off"):
            list(events)
    assert UNITS - 100 < left(core) < UNITS
    assert core.stop() == 0
    assert "Traceback" not in core.log.read_text()
