"""Two replicas of the reference Core over one real server: what they share, and what they never do."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.replicas import ADMIN_TOKEN, CACHES, SESSIONS, Site, bearer, chat, limit, until
from tests.servers import Server

from cachepolicy import Acknowledgement, names
from cachepolicy_runtime import gateway, standin


@pytest.fixture
def site(tmp_path: Path, real_server: Server) -> Site:
    """Once for each kind of server that is a process."""
    return Site(tmp_path / "site", real_server.url)


async def stored(site: Site, pattern: str) -> list[str]:
    """Names of the keys that are in Redis."""
    async with Server("", site.url).client() as redis:
        return [key.decode() for key in await redis.keys(pattern) if isinstance(key, bytes)]


# --- response cache ---------------------------------------------------------------------------------------


async def test_an_answer_is_a_hit_on_the_other_replica(site: Site) -> None:
    """The same bytes, with Cache-Status and Age, from another process's work; the provider is asked once."""
    site.apply(CACHES)
    async with site.replicas() as (first, second):
        miss, hit = await first.chat(), await second.chat()
    assert "fwd=uri-miss" in miss.headers["cache-status"]
    assert hit.headers["cache-status"].startswith("CachePolicy; hit")
    assert int(hit.headers["age"]) >= 0
    assert hit.content == miss.content
    assert (miss.headers["x-served-by"], hit.headers["x-served-by"]) == ("core-0", "core-1")
    assert (await site.counts())["chat"] == 1


async def test_a_tenant_never_gets_anothers_answer(site: Site) -> None:
    """Users of one tenant share; no header, query or field makes the other tenant a member."""
    site.apply(CACHES)
    async with site.replicas() as (first, second):
        await first.chat(who="alice")
        assert "hit" in (await second.chat(who="bob")).headers["cache-status"]
        assert "hit" not in (await second.chat(who="eve")).headers["cache-status"]
        claims = {
            "X-Tenant": "acme",
            "X-User": "alice",
            "OpenAI-Organization": "acme",
            "Cookie": "tenant=acme",
        }
        for claim in (
            await second.http.post(
                "/v1/chat/completions?tenant=acme", json=chat("secret"), headers={**bearer("eve"), **claims}
            ),
            await second.chat("secret", who="eve", user="alice", tenant="acme", metadata={"tenant": "acme"}),
        ):
            assert claim.status_code == 200
        await first.chat("secret", who="alice")
    scopes = {key.split(":r:")[0] for key in await stored(site, "shop/core:c:*")}
    assert scopes == {"shop/core:c:{acme}", "shop/core:c:{globex}"}
    assert (await site.counts())["chat"] == 5


async def test_a_stream_is_passed_through_and_never_stored(site: Site) -> None:
    """Each of two equal streams is asked for again, and nothing is left in Redis."""
    site.apply(CACHES)
    async with site.replicas() as (first, second):
        streams = [await replica.chat(stream=True) for replica in (first, second)]
    assert streams[0].headers["content-type"].startswith("text/event-stream")
    assert streams[0].headers["cache-status"] == "CachePolicy; fwd=bypass; detail=stream"
    assert streams[0].text.endswith("data: [DONE]\n\n")
    assert (await site.counts())["streams"] == 2
    assert await stored(site, "shop/core:c:*") == []


async def test_an_answer_that_was_cut_off_is_not_stored(site: Site) -> None:
    """finish_reason length."""
    site.apply(CACHES)
    async with site.replicas() as (first, second):
        await first.chat(max_tokens=2)
        again = await second.chat(max_tokens=2)
    assert again.headers["cache-status"].endswith("detail=finish-reason")


async def test_without_a_valid_key_nobody_reaches_the_cache(site: Site) -> None:
    """401 in OpenAI's shape."""
    site.apply(CACHES, SESSIONS)
    async with site.replicas(1) as (core,):
        await core.chat()
        for got in (
            await core.http.post("/v1/chat/completions", json=chat()),
            await core.chat(who="nobody"),
            await core.embed("a", who="nobody"),
            await core.http.get("/v1/session"),
        ):
            assert got.status_code == 401
            assert got.json()["error"]["code"] == "invalid_api_key"
    assert (await site.counts())["chat"] == 1


# --- embeddings -------------------------------------------------------------------------------------------


async def test_a_batch_costs_only_what_no_replica_knows(site: Site) -> None:
    """Order and duplicates are kept; the other replica's vectors are the very same numbers."""
    site.apply(CACHES)
    async with site.replicas() as (first, second):
        known = await first.embed(["b", "d"], dimensions=8)
        mixed = await second.embed(["a", "b", "a", "d"], dimensions=8)
    vectors = [item["embedding"] for item in mixed.json()["data"]]
    assert [item["index"] for item in mixed.json()["data"]] == [0, 1, 2, 3]
    assert [vectors[1], vectors[3]] == [item["embedding"] for item in known.json()["data"]]
    assert vectors[0] == vectors[2] == pytest.approx(standin.vector("a", 8))
    assert mixed.headers["cache-status"] == 'CachePolicy; fwd=partial; detail="2 known, 1 computed"'
    assert mixed.json()["usage"]["prompt_tokens"] == 1
    assert (await site.counts())["texts"] == 3


async def test_base64_and_floats_are_one_entry(site: Site) -> None:
    """The SDKs ask for base64; the vector is the same."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        floats = (await core.embed("a", dimensions=4)).json()["data"][0]["embedding"]
        packed = (await core.embed("a", dimensions=4, encoding_format="base64")).json()["data"][0][
            "embedding"
        ]
    assert list(struct.unpack("<4f", base64.b64decode(packed))) == floats
    assert (await site.counts())["embeddings"] == 1


async def test_every_other_setting_of_an_embedding_counts(site: Site) -> None:
    """A field that a provider adds tomorrow makes another vector."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        for more in ({}, {"input_type": "query"}, {"dimensions": 8}, {"truncate": "END"}, {}):
            await core.embed("a", **more)
    assert (await site.counts())["embeddings"] == 4


async def test_what_a_cache_cannot_understand_is_the_providers_to_answer(site: Site) -> None:
    """Mistakes are passed on, uncached; its refusal comes back as it is."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        for given in ([1, "two"], [], ""):
            got = await core.embed(given)
            assert got.status_code == (200 if given == "" else 400)
        refused = await core.embed("a", dimensions=100_000)
    assert "dimensions" in refused.json()["error"]["message"]


# --- rate limits ------------------------------------------------------------------------------------------


async def test_a_limit_holds_over_all_replicas_together(site: Site) -> None:
    """Five in turn pass, the sixth is refused on either replica, before the provider; others are not touched."""
    site.apply(limit(5))
    async with site.replicas() as (first, second):
        passed = [await (first, second)[number % 2].chat() for number in range(5)]
        refused = [await replica.chat() for replica in (first, second)]
        other = await first.chat(who="bob")
    assert [answer.status_code for answer in passed] == [200] * 5
    assert [answer.headers["ratelimit"].split(";")[1] for answer in passed] == [
        f"r={n}" for n in (4, 3, 2, 1, 0)
    ]
    for answer in refused:
        assert answer.status_code == 429
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["ratelimit-policy"] == '"per-user";q=5;w=3600'
        assert 0 < int(answer.headers["retry-after"]) <= 3960  # the window and a tenth of it
        assert answer.json()["violated-policies"] == ["per-user"]
    assert other.status_code == 200
    assert (await site.counts())["chat"] == 6


async def test_a_hit_counts_as_a_request(site: Site) -> None:
    """Admission comes before the cache: a caller without room gets no answer, known or not."""
    site.apply(limit(2), CACHES)
    async with site.replicas(1) as (core,):
        answers = [await core.chat() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_probes_are_never_limited(site: Site) -> None:
    """A limit by address would otherwise let the kubelet restart Core."""
    by_address = {"rateLimits": {"all": {"by": [{"type": "IP"}], "rates": [{"limit": 1, "window": "1h"}]}}}
    site.apply(by_address)
    async with site.replicas(1) as (core,):
        assert (await core.chat()).status_code == 200
        assert (await core.chat()).status_code == 429
        for path in ("/healthz", "/readyz", "/cache/health"):
            assert [(await core.http.get(path)).status_code for _ in range(3)] == [200] * 3


# --- sessions ---------------------------------------------------------------------------------------------


async def test_a_session_is_the_same_on_every_replica_and_survives_one(site: Site) -> None:
    """Written here, read there, and by a replica that did not exist then; ended everywhere at once."""
    site.apply(SESSIONS)
    async with site.replicas() as (first, second):
        wrote = await first.http.put("/v1/session", json={"cart": [1]}, headers=bearer("alice"))
        assert wrote.headers["set-cookie"].startswith("__Host-session=")
        second.http.cookies = first.http.cookies
        assert (await second.http.get("/v1/session", headers=bearer("alice"))).json() == {"cart": [1]}
        cookies = httpx.Cookies(first.http.cookies)
    async with site.replica("core-2") as third:
        await site.enforced(third)
        third.http.cookies = httpx.Cookies(cookies)
        assert (await third.http.get("/v1/session", headers=bearer("alice"))).json() == {"cart": [1]}
        ended = await third.http.delete("/v1/session", headers=bearer("alice"))
        assert "Max-Age=0" in ended.headers["set-cookie"]
        third.http.cookies = httpx.Cookies(cookies)
        assert (await third.http.get("/v1/session", headers=bearer("alice"))).json() == {}


async def test_a_cookie_alone_opens_nobody_elses_session(site: Site) -> None:
    """Neither another tenant nor a colleague reads it, and what they write becomes their own."""
    site.apply(SESSIONS)
    async with site.replicas(1) as (core,):
        await core.http.put("/v1/session", json={"cart": [1]}, headers=bearer("alice"))
        stolen = httpx.Cookies(core.http.cookies)
        for thief in ("bob", "eve"):
            core.http.cookies = httpx.Cookies(stolen)
            assert (await core.http.get("/v1/session", headers=bearer(thief))).json() == {}
            assert (await core.http.delete("/v1/session", headers=bearer(thief))).status_code == 204
        core.http.cookies = httpx.Cookies(stolen)
        assert (await core.http.get("/v1/session", headers=bearer("alice"))).json() == {"cart": [1]}


async def test_a_session_larger_than_the_policy_allows_is_refused(site: Site) -> None:
    """413, and what was there stays."""
    site.apply({"sessions": {"maxBytes": "1Ki"}})
    async with site.replicas(1) as (core,):
        await core.http.put("/v1/session", json={"a": 1}, headers=bearer("alice"))
        refused = await core.http.put("/v1/session", json={"a": "x" * 2000}, headers=bearer("alice"))
        assert refused.status_code == 413
        assert "maxBytes" in refused.json()["error"]["message"]
        assert (await core.http.get("/v1/session", headers=bearer("alice"))).json() == {"a": 1}


# --- clearing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "gone"),
    [
        ({"all": True}, {"alice", "eve"}),
        ({"kind": "responses"}, {"alice", "eve"}),
        ({"kind": "embeddings"}, set()),
        ({"tenant": "acme"}, {"alice"}),
        ({"provider": "openai"}, {"alice", "eve"}),
        ({"provider": "azure"}, set()),
        ({"model": "gpt-x", "tenant": "globex"}, {"eve"}),
        ({"model": "gpt-y"}, set()),
    ],
)
async def test_clearing_empties_its_scope_on_all_replicas_and_nothing_else(
    site: Site, scope: dict[str, Any], gone: set[str]
) -> None:
    """By a wake-up; sessions and limits stay."""
    site.apply(CACHES, SESSIONS, limit(100))
    async with site.replicas() as (first, second):
        await first.http.put("/v1/session", json={"a": 1}, headers=bearer("alice"))
        for who in ("alice", "eve"):
            await first.chat(who=who)
        cleared = await first.clear(**scope)
        assert (cleared.status_code, cleared.json()) == (200, {"cleared": scope})
        known = first.runtime.control.stamps

        async def told() -> bool:
            return second.runtime.control.stamps == known

        await until(told)
        answers = {who: await second.chat(who=who) for who in ("alice", "eve")}
        assert (await first.http.get("/v1/session", headers=bearer("alice"))).json() == {"a": 1}
    assert {who for who, answer in answers.items() if "hit" not in answer.headers["cache-status"]} == gone
    assert answers["eve"].headers["ratelimit"].startswith('"per-user";r=98')


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Authorization": "Basic x"}, 401), (bearer("wrong"), 403), (bearer("alice"), 403)],
)
async def test_clearing_needs_the_admin_token(site: Site, headers: dict[str, str], status: int) -> None:
    """A caller's own key is not enough; nothing is cleared."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        await core.chat()
        refused = await core.http.post("/cache/clear", json={"all": True}, headers=headers)
        assert refused.status_code == status
        assert refused.headers["content-type"] == "application/problem+json"
        assert ("www-authenticate" in refused.headers) == (status == 401)
        assert "hit" in (await core.chat()).headers["cache-status"]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "JSON"),
        (b"{}", "at least one of kind, tenant, provider, model and tag"),
        (b'{"all": true, "tenant": "acme"}', "at least one of"),
        (b'{"all": false}', "all"),
        (b'{"tennant": "acme"}', "tennant"),
        (b'{"kind": "sessions"}', "kind"),
        (b'{"tenant": ""}', "tenant"),
        (b'{"tenant": 5}', "tenant"),
    ],
)
async def test_a_clear_that_does_not_say_what_clears_nothing(site: Site, body: bytes, what: str) -> None:
    """A misspelt scope must not become all of it."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        await core.chat()
        refused = await core.http.post("/cache/clear", content=body, headers=bearer(ADMIN_TOKEN))
        assert refused.status_code == 400
        assert what in refused.json()["detail"]
        assert "hit" in (await core.chat()).headers["cache-status"]


# --- what a replica tells ---------------------------------------------------------------------------------


async def test_health_and_stats_say_what_is_enforced_and_what_was_done(site: Site) -> None:
    """Policy, revision, sections, hits and misses by provider, limits, stores; no secret and no tenant."""
    document = site.apply(CACHES, SESSIONS, limit(2))
    async with site.replicas() as (first, second):
        for _ in range(3):
            await first.chat()
        await first.embed("a", who="bob")

        async def both_counted() -> bool:
            return bool((await first.stats())["limits"]["liveProcesses"] == 2)

        await until(both_counted)
        health, stats = await first.health(), await first.stats()
        assert (await second.health())["status"] == "up"
    assert (health["status"], health["reasons"]) == ("up", [])
    assert (health["policy"], health["revision"]) == ("shop/core", document.revision)
    assert health["sections"] == ["sessions", "rateLimits", "responseCache", "embeddingCache"]
    assert health["stores"] == {"state": {"status": "up"}, "cache": {"status": "up"}}
    assert stats["responses"]["providers"]["openai"]["models"]["gpt-x"] == {
        "hits": 1,
        "misses": 1,
        "ratio": 0.5,
    }
    assert stats["embeddings"]["providers"]["openai"]["misses"] == 1
    assert stats["limits"]["refusedBy"] == {"per-user": 1}
    told = json.dumps([health, stats])
    for secret in (ADMIN_TOKEN, "an-hmac-key", "acme", "alice", site.url):
        assert secret not in told


async def test_only_what_there_is_is_answered(site: Site) -> None:
    """404 and 405 as problem documents."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        nothing = await core.http.get("/cache/flush")
        wrong = await core.http.get("/cache/clear")
        elsewhere = await core.http.get("/v1/nothing", headers=bearer("alice"))
    assert (nothing.status_code, wrong.status_code, wrong.headers["allow"]) == (404, 405, "POST")
    assert nothing.headers["content-type"] == "application/problem+json"
    assert elsewhere.json()["error"]["message"] == "Not Found"


async def test_each_process_acknowledges_what_it_enforces(site: Site) -> None:
    """All sections, with the revision; withdrawn at a clean end."""
    document = site.apply(CACHES, SESSIONS, limit(5))
    async with site.replicas():

        async def both() -> bool:
            return len(await stored(site, "shop/core:ack:*")) == 2

        await until(both)
        members = await stored(site, "shop/core:ack:*")
        with Server("", site.url).sync_client() as redis:
            records = [Acknowledgement.from_json(redis.get(key) or b"") for key in members]
    assert await stored(site, "shop/core:ack*") == []
    assert {member.split(":")[-1].split("/")[0] for member in members} == {"core-0", "core-1"}
    for record in records:
        assert record is not None
        assert (record.revision, record.enforces) == (document.revision, document.sections)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"messages": []}', b'{"model": ""}', b'{"model": "%s"}' % (b"m" * 257)]
)
async def test_a_body_that_is_no_request_is_refused_before_the_provider(site: Site, body: bytes) -> None:
    """400 in OpenAI's shape."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        got = await core.http.post("/v1/chat/completions", content=body, headers=bearer("alice"))
    assert got.status_code == 400
    assert got.json()["error"]["type"] == "invalid_request_error"
    assert (await site.counts())["chat"] == 0


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda request: httpx.Response(500, json={"error": {"message": "broken"}}), 500),
        (lambda request: httpx.Response(401, json={"error": {"message": "your key sk-1"}}), 502),
        (lambda request: httpx.Response(200, text="<html>"), 200),
    ],
    ids=["error", "credential refused", "not JSON"],
)
async def test_a_failing_provider_is_told_and_never_cached(
    site: Site, answer: Callable[[httpx.Request], httpx.Response], status: int
) -> None:
    """Its error as it is; but that our credential was refused is nothing of the caller's."""
    site.apply(CACHES)
    app = gateway.create_app(site.environ, transport=httpx.MockTransport(answer))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://core") as client,
    ):
        for _ in range(2):
            got = await client.post("/v1/chat/completions", json=chat(), headers=bearer("alice"))
            assert got.status_code == status
            assert "sk-1" not in got.text
            assert "hit" not in got.headers.get("cache-status", "")


def test_the_names_of_mounted_files_are_the_contracts() -> None:
    """What the operator writes is what the runtime reads."""
    assert (names.FILE_HMAC_KEY, names.FILE_ADMIN_TOKEN) == ("cache-hmac-key", "admin-token")
