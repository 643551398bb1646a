"""The endpoints of a process in memory: who may ask what, what they answer, and that nothing private is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.caches import answer, chat_body

from cachepolicy.identity import Identity
from cachepolicy_runtime import CacheRuntime, UpstreamRequest
from cachepolicy_runtime.asgi.endpoints import Endpoints, WarmRefusedError, WarmRequest
from cachepolicy_runtime.asgi.endpoints.openapi import DOCUMENT
from cachepolicy_runtime.asgi.endpoints.warm import outcome

TOKEN = "an-admin-token-of-a-test"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
URL = "https://provider.test/v1/chat/completions"
ALICE = Identity(tenant="acme", user="alice")


class Core:
    """A runtime in memory and an application that asks a provider, which counts and can fail."""

    def __init__(self, folder: Path, *, token: str | None = TOKEN) -> None:
        environ = {}
        if token is not None:
            (folder / "token").write_text(token)
            environ["CACHE_ADMIN_TOKEN_FILE"] = str(folder / "token")
        self.runtime = CacheRuntime.from_env(identify=lambda scope: None, environ=environ)
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = asyncio.Event()
        self.app: Endpoints = self.runtime.endpoints(warm=self.warm, resolve=self.resolve)

    def client(self, app: Any = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app or self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://core")

    def resolve(self, path: str, headers: Mapping[str, str]) -> tuple[str, str, Mapping[str, str]]:
        return {"/chat": ("openai", URL, headers)}[path]

    async def warm(self, asked: WarmRequest) -> str:
        if asked.path != "/chat":
            raise WarmRefusedError(f"{asked.path} is not cached here")
        return await self.ask(asked.body, asked.identity)

    async def ask(self, body: dict[str, Any], identity: Identity = ALICE) -> str:
        async def call() -> Any:
            self.waiting.set()
            await self.gate.wait()
            said = body["messages"][0]["content"]
            self.asked.append(said)
            if said == "fail":
                raise RuntimeError(f"the provider does not like {said}")
            return answer(chat_body(finish_reason="length" if said == "long" else "stop"))

        request = UpstreamRequest(URL, body)
        found = await self.runtime.responses.get_or_call(request, call, provider="openai", identity=identity)
        return found.cache_status


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    made = Core(tmp_path)
    async with made.runtime.lifespan():
        yield made


def chat(text: str = "Hi", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def item(text: str, **more: Any) -> dict[str, Any]:
    return {"tenant": "acme", "path": "/chat", "body": chat(text), **more}


# --- who may ask ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/clear", "/warm", "/explain"])
async def test_what_changes_or_tells_more_needs_the_admin_token(
    core: Core, path: str, tmp_path: Path
) -> None:
    """Without one configured it is refused whatever is sent; nothing of the body is looked at before."""
    async with core.client() as client:
        none = await client.post(path, content=b"{")
        wrong = await client.post(path, content=b"{", headers={"Authorization": "Bearer x"})
        basic = await client.post(path, headers={"Authorization": f"Basic {TOKEN}"})
        right = await client.post(path, content=b"{", headers=ADMIN)
    assert [reply.status_code for reply in (none, wrong, basic, right)] == [401, 403, 401, 400]
    assert none.headers["www-authenticate"] == 'Bearer realm="cache"'
    (folder := tmp_path / "other").mkdir()
    bare = Core(folder, token=None)
    async with bare.client() as client:
        refused = await client.post(path, headers=ADMIN)
    assert refused.status_code == 403
    assert "CACHE_ADMIN_TOKEN_FILE" in refused.json()["detail"]


@pytest.mark.parametrize("path", ["/health", "/stats", "/metrics", "/openapi.json"])
async def test_the_rest_is_open_for_reading_only(core: Core, path: str) -> None:
    async with core.client() as client:
        got, head, put = await client.get(path), await client.head(path), await client.put(path)
    assert (got.status_code, head.status_code, put.status_code) == (200, 200, 405)
    assert put.headers["allow"] == "GET, HEAD"
    assert got.headers["cache-control"] == "no-store"


async def test_nothing_else_is_there(core: Core) -> None:
    async with core.client() as client:
        missing = await client.get("/flush")
    assert missing.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"


async def test_a_body_beyond_the_bound_is_refused(core: Core) -> None:
    async with core.client() as client:
        reply = await client.post("/clear", content=b"x" * 20_000, headers=ADMIN)
    assert reply.status_code == 413


# --- clear ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "emptied"),
    [
        ({"all": True}, True),
        ({"kind": "responses"}, True),
        ({"tenant": "acme", "provider": "openai", "model": "m"}, True),
        ({"kind": "embeddings"}, False),
        ({"tenant": "globex"}, False),
        ({"tag": "faq"}, False),
    ],
)
async def test_clearing_empties_what_it_names(core: Core, scope: dict[str, Any], emptied: bool) -> None:
    await core.ask(chat())
    async with core.client() as client:
        reply = await client.post("/clear", json=scope, headers=ADMIN)
    assert reply.json() == {"cleared": scope}
    assert ("hit" not in await core.ask(chat())) == emptied


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, 'say {"all": true}, or at least one of'),
        ({"all": True, "tag": "faq"}, "or at least one of"),
        ({"kind": "sessions"}, "kind: "),
        ({"tag": "t" * 65}, "tag: "),
        ({"users": "alice"}, "users: "),
    ],
)
async def test_a_scope_that_says_nothing_clear_is_refused(core: Core, body: Any, sentence: str) -> None:
    async with core.client() as client:
        reply = await client.post("/clear", json=body, headers=ADMIN)
    assert reply.status_code == 400
    assert sentence in reply.json()["detail"]


# --- warm -------------------------------------------------------------------------------------------------


async def test_warming_calls_for_what_is_missing_and_a_second_time_for_nothing(core: Core) -> None:
    """For the tenant that is named, in the order of the requests, and each failure for itself."""
    batch = {
        "requests": [item("a"), item("long"), item("fail"), item("a", path="/other"), item("b", user="bob")]
    }
    async with core.client() as client:
        first = (await client.post("/warm", json=batch, headers=ADMIN)).json()
        asked, core.asked = sorted(core.asked), []
        second = (await client.post("/warm", json=batch, headers=ADMIN)).json()
    assert asked == ["a", "b", "fail", "long"]
    assert [result["result"] for result in first["results"]] == [
        "stored",
        "notStored",
        "failed",
        "failed",
        "stored",
    ]
    assert first["results"][1]["detail"] == "finish-reason"
    assert first["results"][2]["detail"] == "RuntimeError"
    assert first["results"][3]["detail"] == "/other is not cached here"
    assert (first["stored"], second["stored"], second["cached"]) == (2, 0, 2)
    assert sorted(core.asked) == ["fail", "long"]
    assert "hit" in await core.ask(chat("a"))
    assert "hit" not in await core.ask(chat("a"), Identity(tenant="globex"))


async def test_one_batch_at_a_time(core: Core) -> None:
    """Batches do not add up to an overload of the provider."""
    core.gate.clear()
    async with core.client() as client:
        under_way = asyncio.create_task(client.post("/warm", json={"requests": [item("a")]}, headers=ADMIN))
        await core.waiting.wait()
        refused = await client.post("/warm", json={"requests": [item("b")]}, headers=ADMIN)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        core.gate.set()
        assert (await under_way).json()["stored"] == 1
        assert (await client.post("/warm", json={"requests": [item("b")]}, headers=ADMIN)).status_code == 200


async def test_an_application_that_does_not_say_how_is_not_warmed(core: Core) -> None:
    async with core.client(core.runtime.endpoints()) as client:
        warm = await client.post("/warm", json={"requests": [item("a")]}, headers=ADMIN)
        explain = await client.post("/explain", json=item("a"), headers=ADMIN)
    assert (warm.status_code, explain.status_code) == (501, 501)
    assert "runtime.endpoints(warm=…)" in warm.json()["detail"]


@pytest.mark.parametrize(
    "batch",
    [
        {"requests": []},
        {"requests": [item("a")] * 65},
        {"requests": [{**item("a"), "path": "chat"}]},
        {"requests": [item("a")], "concurrency": 17},
        {"requests": [{**item("a"), "user": None}]},
        {"requests": [{**item("a"), "tenant": ""}]},
    ],
)
async def test_batches_are_bounded(core: Core, batch: Any) -> None:
    async with core.client() as client:
        assert (await client.post("/warm", json=batch, headers=ADMIN)).status_code == 400


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("CachePolicy; hit; ttl=5", ("cached", None)),
        ("CachePolicy; fwd=uri-miss; fwd-status=200; stored", ("stored", None)),
        ("CachePolicy; fwd=uri-miss; fwd-status=200; detail=empty", ("notStored", "empty")),
        ("CachePolicy; fwd=bypass; detail=stream", ("notStored", "stream")),
        ("CachePolicy; fwd=miss; detail=store-unavailable; fwd-status=200; stored", ("stored", None)),
        ('CachePolicy; fwd=partial; detail="1 known, 1 computed"', ("stored", None)),
        ("CachePolicy; fwd=uri-miss", ("stored", None)),
    ],
)
def test_what_became_of_a_request_is_read_from_its_cache_status(status: str, told: Any) -> None:
    assert outcome(status) == told


# --- explain ----------------------------------------------------------------------------------------------


async def explained(core: Core, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    async with core.client() as client:
        asked = {"tenant": "acme", "path": "/chat", "body": body, **more}
        reply = await client.post("/explain", json=asked, headers=ADMIN)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def test_a_hit_is_told_with_its_age(core: Core) -> None:
    """By path or by the provider's URL; looking counts nothing and calls nobody."""
    await core.ask(chat())
    told = await explained(core, chat())
    assert told["result"] == "hit"
    assert told["ttlSeconds"] > 0
    assert told["nearest"] is None
    async with core.client() as client:
        asked = {"tenant": "acme", "url": URL, "provider": "openai", "body": chat()}
        by_url = await client.post("/explain", json=asked, headers=ADMIN)
    assert by_url.json()["result"] == "hit"
    assert core.asked == ["Hi"]
    assert core.runtime.responses.counts.as_dict()["hits"] == 0


async def test_a_miss_names_the_fields_that_differ_from_the_nearest_request(core: Core) -> None:
    await core.ask(chat("something else entirely", temperature=1))
    await core.ask(chat("Hi", temperature=0, seed=1))
    told = await explained(core, chat("Hi", temperature=0.5, top_p=1))
    assert told["result"] == "miss"
    assert told["nearest"]["differs"] == {"temperature": "changed", "top_p": "added", "seed": "missing"}
    assert all(path in told["why"] for path in ("temperature", "top_p", "seed"))


async def test_the_same_request_whose_answer_was_not_kept_says_so(core: Core) -> None:
    await core.ask(chat("long"))
    told = await explained(core, chat("long"))
    assert told["nearest"]["differs"] == {}
    assert "no answer is stored" in told["why"]


async def test_another_tenant_is_never_compared_with(core: Core) -> None:
    await core.ask(chat("Hi"))
    told = await explained(core, chat("Ho"), tenant="globex")
    assert told["result"] == "miss"
    assert told["nearest"] is None


async def test_a_request_that_bypasses_the_cache_says_why(core: Core) -> None:
    told = await explained(core, chat(stream=True))
    assert (told["result"], told["detail"]) == ("bypass", "stream")
    assert "never stored" in told["why"]


@pytest.mark.parametrize(
    "asked",
    [
        {"tenant": "acme", "body": chat()},
        {"tenant": "acme", "body": chat(), "path": "/chat", "url": URL},
        {"tenant": "acme", "body": chat(), "url": URL},
        {
            "tenant": "acme",
            "body": chat(),
            "url": "https://user:password@provider.test/",
            "provider": "openai",
        },
    ],
)
async def test_a_place_is_named_once_and_exists(core: Core, asked: dict[str, Any]) -> None:
    async with core.client() as client:
        reply = await client.post("/explain", json=asked, headers=ADMIN)
        nowhere = await client.post("/explain", json={**item("a"), "path": "/nowhere"}, headers=ADMIN)
    assert (reply.status_code, nowhere.status_code) == (400, 404)


# --- figures ----------------------------------------------------------------------------------------------


async def test_stats_tell_what_is_in_the_memory_of_this_process(core: Core) -> None:
    for text in ("a", "b", "a"):
        await core.ask(chat(text))
    async with core.client() as client:
        stats = (await client.get("/stats")).json()
    assert (stats["responses"]["hits"], stats["responses"]["misses"]) == (1, 2)
    assert stats["cacheServer"]["keys"] == 2
    assert stats["cacheServer"]["usedBytes"] > 100
    assert stats["cacheServer"]["maxBytes"] == 64 << 20


async def test_metrics_are_what_prometheus_reads_and_agree_with_stats(core: Core) -> None:
    """Every family has help and a type, and no sample comes twice."""
    for text in ("a", "b", "a", "long"):
        await core.ask(chat(text))
    async with core.client() as client:
        reply = await client.get("/metrics")
        stats = (await client.get("/stats")).json()
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(reply.text))
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    assert len(samples) == sum(len(family.samples) for family in families)
    assert all(family.documentation and family.type in ("counter", "gauge") for family in families)
    hits = [value for key, value in samples.items() if "lookups" in key[0] and ("result", "hit") in key]
    assert sum(hits) == stats["responses"]["hits"] == 1
    reason = ("cachepolicy_core_cache_not_stored_total", ("cache", "responses"), ("reason", "finish-reason"))
    assert samples[reason] == 1
    assert samples[("cachepolicy_core_cache_server_keys",)] == 2


async def test_nothing_that_anybody_reads_names_a_tenant_a_user_or_a_prompt(core: Core) -> None:
    """Also not after failures, refusals and explanations."""
    for text in ("a private prompt", "long", "b"):
        await core.ask(chat(text))
    async with core.client() as client:
        await client.post("/warm", json={"requests": [item("fail")]}, headers=ADMIN)
        told = await client.post("/explain", json=item("another private prompt"), headers=ADMIN)
        open_to_all = [(await client.get(path)).text for path in ("/health", "/stats", "/metrics")]
    for secret in ("acme", "alice", "private", TOKEN, URL):
        assert not any(secret in text for text in open_to_all)
    assert "private" not in told.text


async def test_the_document_describes_every_path(core: Core) -> None:
    async with core.client() as client:
        served = (await client.get("/openapi.json")).json()
    assert served == json.loads(json.dumps(DOCUMENT))
    assert {f"/{path}" for path in ("clear", "warm", "explain", "health", "stats", "metrics")} < set(
        served["paths"]
    )
