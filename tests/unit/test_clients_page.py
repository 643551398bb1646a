"""The examples of docs/clients.md, driven against the stand-in provider. That each of them runs is test_docs.py's."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
from tests.clients import served

from cachepolicy import Duration
from cachepolicy_runtime import standin

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"


def example(heading: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example below a heading, as a module."""
    for name in ("CACHEPOLICY_DIR", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    text = PAGE.read_text().split(f"\n## {heading}\n")[1]
    code = re.search(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert code is not None
    module = ModuleType(f"clients_page_{heading.lower().replace(' ', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code[1], str(PAGE), "exec"), module.__dict__)  # noqa: S102 - that is the test
    return module


@asynccontextmanager
async def running(app: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app),
            base_url="http://core",
            headers={"authorization": "Bearer key-of-alice"},
        ) as http,
    ):
        yield http


async def test_an_application_with_an_sdk_asks_the_provider_once(monkeypatch: pytest.MonkeyPatch) -> None:
    page = example("SDKs of OpenAI and Anthropic", monkeypatch)
    provider = standin.create_app(Duration(0))
    async with served(provider) as url, running(page.core) as http, page.openai as openai:
        openai.base_url = f"{url}/v1"
        answers = [(await http.post("/ask", params={"question": "Why?"})).json() for _ in range(2)]
        stranger = await http.post("/ask", params={"question": "Why?"}, headers={"authorization": ""})
        vectors = [(await http.post("/similar", params={"text": "one"})).json() for _ in range(2)]
        async with httpx2.AsyncClient(base_url=url) as network:
            counts = (await network.get("/counts")).json()
    assert answers[0] == answers[1] == stranger.json()
    assert vectors[0] == vectors[1]
    assert (counts["chat"], counts["texts"]) == (2, 1)


async def test_an_endpoint_knows_its_caller_and_is_cached_like_any_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = example("FastAPI", monkeypatch)
    async with running(page.core) as http:
        me = await http.get("/me")
        rates = [(await http.get("/rates/eur")).json() for _ in range(2)]
        counted = page.runtime.responses.counts.as_dict()
    assert me.json() == {"tenant": "acme"}
    assert "set-cookie" in me.headers
    assert rates == [1.0, 1.0]
    assert (counted["hits"], counted["misses"]) == (1, 1)
