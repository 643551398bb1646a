"""The response cache of two reference Cores over one real server: together, over time, and with large answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.caches import REQUEST, HeldProvider, answer, ask, chat_body
from tests.fleets import cluster
from tests.replicas import PEOPLE, Replica, Site, bearer, chat, until
from tests.servers import Server
from tests.stores import LAYOUT, PATIENT

from cachepolicy import Identity
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.store.cluster import ClusterTransport
from cachepolicy_runtime.store.endpoint import fixed, parse_url
from cachepolicy_runtime.store.leases import Claim, RedisLeaseStore

WHO = Identity(*PEOPLE["alice"])


@pytest.fixture
def site(tmp_path: Path, real_server: Server) -> Site:
    """Once for each kind of server that is a process."""
    return Site(tmp_path / "site", real_server.url)


def knobs(told: str) -> dict[str, Any]:
    """What the stand-in is asked to do; no part of a cache key."""
    return {"metadata": {"standin": told}}


def status_of(response: Any) -> str:
    return str(response.headers["cache-status"])


# --- at the same time -------------------------------------------------------------------------------------


async def test_identical_requests_to_two_replicas_are_one_call(site: Site) -> None:
    """All get the same answer; who waited says so."""
    site.apply({"responseCache": {"coalesce": {}}})
    async with site.replicas() as replicas:
        got = await asyncio.gather(
            *(replica.chat(**knobs("delay=300ms")) for _ in range(20) for replica in replicas)
        )
    assert (await site.counts())["chat"] == 1
    assert {response.content for response in got} == {got[0].content}
    assert [status_of(response) for response in got].count("CachePolicy; fwd=uri-miss; collapsed") == 39


async def test_a_thousand_callers_at_once_are_all_answered(site: Site) -> None:
    """A hundred questions, each asked by five callers of both replicas: a hundred calls. Below HTTP, which takes
    longer than all the rest."""
    site.apply({"responseCache": {"coalesce": {}, "local": {}}})
    calls: list[str] = []

    async def asked(replica: Replica, text: str) -> bool:
        async def call() -> Answer:
            calls.append(text)
            await asyncio.sleep(0.05)
            return answer(chat_body(text))

        request = replace(REQUEST, body={**REQUEST.body, "seed": text})
        got = await ask(replica.runtime.responses, call, request, identity=WHO)
        return got.answer.body == answer(chat_body(text)).body

    async with site.replicas() as replicas:
        right = await asyncio.gather(
            *(asked(replica, f"{number % 100}.") for number in range(500) for replica in replicas)
        )
    assert right == [True] * 1000
    assert sorted(calls) == sorted(set(calls))


async def test_tenants_never_wait_for_each_other(site: Site) -> None:
    site.apply({"responseCache": {"coalesce": {}}})
    async with site.replicas() as (first, second):
        alice, eve = await asyncio.gather(
            first.chat(who="alice", **knobs("delay=200ms")), second.chat(who="eve", **knobs("delay=200ms"))
        )
    assert (await site.counts())["chat"] == 2
    assert "collapsed" not in status_of(alice) + status_of(eve)


async def test_errors_are_not_shared_and_nobody_waits_in_a_row(site: Site) -> None:
    """Ten callers, each with an error of his own, in the time of two calls."""
    site.apply({"responseCache": {"coalesce": {}}})
    async with site.replicas() as replicas:
        got = await asyncio.gather(
            *(replica.chat(**knobs("status=503, delay=300ms")) for _ in range(5) for replica in replicas)
        )
    assert {response.status_code for response in got} == {503}
    assert (await site.counts())["atOnce"] >= 5


# --- over time --------------------------------------------------------------------------------------------


async def test_a_stale_answer_is_served_and_renewed_once_over_both_replicas(site: Site) -> None:
    site.apply({"responseCache": {"ttl": "1ms", "staleWhileRevalidate": "1h"}})
    async with site.replicas() as (first, second):
        await first.chat()
        stale = await asyncio.gather(
            *(replica.chat(**knobs("delay=300ms")) for _ in range(5) for replica in (first, second))
        )
        assert all(status_of(response).endswith("detail=stale") for response in stale)
        await until(lambda: renewed(first, second))
        assert (await site.counts())["chat"] == 2


async def renewed(*replicas: Replica) -> bool:
    stats = [(await replica.stats())["responses"] for replica in replicas]
    return bool(sum(part["refreshed"] for part in stats) == 1)


async def test_an_old_answer_stands_in_for_a_provider_that_fails(site: Site) -> None:
    """Also on the replica that did not store it."""
    site.apply({"responseCache": {"ttl": "1ms", "staleIfError": "1h"}})
    async with site.replicas() as (first, second):
        fresh = await first.chat()
        stale = await second.chat(**knobs("status=503"))
    assert stale.status_code == 200
    assert stale.content == fresh.content
    assert status_of(stale) == "CachePolicy; fwd=stale; fwd-status=503; detail=stale-if-error"
    assert int(stale.headers["age"]) >= 0


async def test_what_a_tag_names_is_emptied_on_both_replicas(site: Site) -> None:
    """The caller named it in the header that the policy allows; the first levels are emptied too."""
    site.apply({"responseCache": {"tagHeader": "X-Cache-Tags", "local": {}}})
    async with site.replicas() as (first, second):
        headers = {**bearer("alice"), "X-Cache-Tags": "faq, de"}
        await first.http.post("/v1/chat/completions", json=chat(), headers=headers)
        await first.chat("Something else")
        assert "hit" in status_of(await second.chat())
        assert (await first.clear(tag="faq")).status_code == 200
        await until(lambda: missed(second))
        assert "hit" in status_of(await second.chat("Something else"))


async def missed(replica: Replica) -> bool:
    response = await replica.http.post(
        "/v1/chat/completions", json=chat(), headers={**bearer("alice"), "Cache-Control": "only-if-cached"}
    )
    return response.status_code == 504


async def test_an_answer_that_was_under_way_during_a_purge_is_not_served_after_it(site: Site) -> None:
    site.apply({"responseCache": {"coalesce": {}, "local": {}}})
    async with site.replicas() as (first, second):
        call = HeldProvider()
        under_way = asyncio.create_task(ask(first.runtime.responses, call, identity=WHO))
        await call.asked.wait()
        assert (await first.clear(all=True)).status_code == 200
        call.go.set()
        await under_way
        for replica in (first, second):
            found = await replica.runtime.responses.inspect(REQUEST, provider="openai", identity=WHO)
            assert found.result == "miss"


# --- large ------------------------------------------------------------------------------------------------


async def test_ten_mebibytes_come_back_as_they_were(site: Site) -> None:
    """Through Redis, with small answers asked for at the same time."""
    site.apply({"responseCache": {"cacheable": {"maxEntryBytes": "16Mi"}}})
    large = answer(chat_body("".join(chr(32 + number % 90) for number in range(10 * 1024 * 1024))))

    async def call() -> Answer:
        return large

    async with site.replicas() as (first, second):
        stored = await ask(first.runtime.responses, call, identity=WHO)
        assert stored.cache_status.endswith("stored")
        await first.chat()
        asked = asyncio.create_task(ask(second.runtime.responses, call, identity=WHO))
        small = await asyncio.gather(*(second.chat() for _ in range(20)))
        found = await asked
    assert found.hit
    assert found.answer.body == large.body
    assert all("hit" in status_of(response) for response in small)


async def test_leases_work_in_a_cluster() -> None:
    """A lease lies on the node of its entry, and a release is heard through any node."""
    with cluster() as three:
        address, credentials = parse_url(three.url)
        transport = ClusterTransport("cache", address, fixed(credentials), PATIENT)
        leases = RedisLeaseStore(transport, LAYOUT.released_channel)
        released = leases.released()
        assert await anext(released) == ""
        for tenant in ("acme", "globex", "initech"):
            entry = LAYOUT.response(tenant, "openai", "d")
            assert await leases.claim(f"{entry}:s", "a", 60_000, entry) == Claim(True, False, None)
            assert await leases.renew(f"{entry}:s", "a", 60_000)
            await leases.release(f"{entry}:s", "a", 0)
            assert await anext(released) in ("", f"{entry}:s")
        await released.aclose()
        await transport.aclose()
