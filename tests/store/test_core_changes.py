"""What happens around running replicas: policies come and change, Redis goes and returns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.replicas import CACHES, SESSIONS, Replica, Site, bearer, limit, until
from tests.servers import PLAIN_CONF, Server

from cachepolicy import KeyLayout, PolicyDocument, names
from cachepolicy_operator import embedded

KEYS = KeyLayout("shop/core")


class Power:
    """A server of one test alone, to be switched off and on. What it held is gone then."""

    def __init__(self, folder: Path) -> None:
        (folder / "redis.conf").write_text(PLAIN_CONF)
        self._launch = embedded.Launch(folder / "data", folder / "redis.conf")
        self._server = embedded.start(self._launch)
        self.url = self._server.url

    async def off(self) -> None:
        await asyncio.to_thread(self._server.stop)

    async def on(self) -> None:
        self._server = await asyncio.to_thread(embedded.start, self._launch)


@pytest.fixture
def power(tmp_path: Path) -> Iterator[Power]:
    switch = Power(tmp_path)
    yield switch
    switch._server.stop()


@pytest.fixture
def site(tmp_path: Path, power: Power) -> Site:
    return Site(tmp_path / "site", power.url)


async def degraded(*replicas: Replica) -> None:
    """Until each of them has noticed."""
    for replica in replicas:

        async def noticed(replica: Replica = replica) -> bool:
            return bool((await replica.health())["status"] == "degraded")

        await until(noticed)


# --- outages ----------------------------------------------------------------------------------------------


async def test_answers_go_on_without_redis_and_the_cache_returns_with_it(site: Site, power: Power) -> None:
    """200 throughout; health says degraded and why, then up; what was lost is a miss."""
    site.apply(CACHES, SESSIONS, limit(100))
    async with site.replicas() as (first, second):
        await first.chat()
        await power.off()
        during = [await replica.chat() for replica in (first, second)]
        vectors = await first.embed(["a", "b"])
        await degraded(first, second)
        health = await first.health()
        await power.on()
        await site.enforced(first, second)
        after = [await first.chat("again"), await second.chat("again")]
    assert [answer.status_code for answer in during] == [200, 200]
    assert (vectors.status_code, len(vectors.json()["data"])) == (200, 2)
    assert health["stores"]["cache"]["status"] == "unavailable"
    assert any(reason.startswith("the state store is unavailable: ") for reason in health["reasons"])
    assert site.url.removeprefix("unix://") not in str(health)
    assert ["hit" in answer.headers["cache-status"] for answer in after] == [False, True]


async def test_in_an_outage_a_local_limit_is_divided_by_the_live_replicas(site: Site, power: Power) -> None:
    """Two replicas and a limit of ten: five on each, ten together."""
    site.apply(limit(10))
    async with site.replicas() as (first, second):

        async def both_counted() -> bool:
            return first.runtime.control.live == second.runtime.control.live == 2

        await until(both_counted)
        await power.off()
        codes = [[(await replica.chat()).status_code for _ in range(7)] for replica in (first, second)]
    assert codes == [[200] * 5 + [429] * 2] * 2


@pytest.mark.parametrize(("failure", "status"), [("Deny", 503), ("Allow", 200)])
async def test_in_an_outage_a_limit_does_what_it_says(
    site: Site, power: Power, failure: str, status: int
) -> None:
    """Deny answers 503 with Retry-After, Allow passes."""
    site.apply(limit(1, onStoreFailure=failure))
    async with site.replicas(1) as (core,):
        await power.off()
        answers = [await core.chat() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [status] * 3
    assert ("retry-after" in answers[-1].headers) == (status == 503)


async def test_in_an_outage_a_session_is_read_only_and_whole_again_after_it(site: Site, power: Power) -> None:
    """The replica that knows it serves its copy; a change is 503; it is re-created where the store lost it."""
    site.apply(SESSIONS)
    async with site.replicas(1) as (core,):
        await core.http.put("/v1/session", json={"n": 1}, headers=bearer("alice"))
        await power.off()
        read = await core.http.get("/v1/session", headers=bearer("alice"))
        write = await core.http.put("/v1/session", json={"n": 2}, headers=bearer("alice"))
        await degraded(core)
        await power.on()
        await site.enforced(core)
        after = await core.http.get("/v1/session", headers=bearer("alice"))
    assert (read.json(), write.status_code, after.json()) == ({"n": 1}, 503, {"n": 1})
    assert write.headers["content-type"] == "application/problem+json"


async def test_clearing_without_redis_is_refused(site: Site, power: Power) -> None:
    """503: it must not look as if the other replicas had been told."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        await power.off()
        refused = await core.clear(all=True)
    assert refused.status_code == 503
    assert "Nothing was cleared" in refused.json()["detail"]


async def test_core_starts_while_redis_is_away(site: Site, power: Power) -> None:
    """Degraded, answering, and whole as soon as Redis is there."""
    site.apply(CACHES, SESSIONS, limit(100))
    await power.off()
    async with site.replica("core-0") as core:
        assert (await core.chat()).status_code == 200
        assert (await core.health())["status"] == "degraded"
        await power.on()
        await site.enforced(core)
        assert "stored" in (await core.chat()).headers["cache-status"]


# --- the policy changes -----------------------------------------------------------------------------------


async def test_a_changed_limit_holds_on_all_replicas_without_a_restart(site: Site) -> None:
    """What was counted stays counted."""
    site.apply(limit(2))
    async with site.replicas() as (first, second):
        before = [(await first.chat()).status_code for _ in range(3)]
        site.apply(limit(4))
        await site.enforced(first, second)
        after = [(await second.chat()).status_code for _ in range(3)]
    assert (before, after) == ([200, 200, 429], [200, 200, 429])


async def test_a_changed_time_to_live_holds_for_new_entries(site: Site) -> None:
    """The old entry keeps its own."""
    site.apply({"responseCache": {"ttl": "1h"}})
    async with site.replicas(1) as (core,):
        await core.chat("old")
        site.apply({"responseCache": {"ttl": "10s"}})
        await site.enforced(core)
        await core.chat("new")
        old, new = await core.chat("old"), await core.chat("new")
    assert int(old.headers["cache-status"].rpartition("=")[2]) > 3000
    assert int(new.headers["cache-status"].rpartition("=")[2]) <= 10


async def test_sections_come_and_go(site: Site) -> None:
    """A section that is removed is enforced no more; one that comes is enforced at once."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        assert (await core.http.get("/v1/session", headers=bearer("alice"))).status_code == 404
        site.apply(SESSIONS)
        await site.enforced(core)
        assert (await core.http.get("/v1/session", headers=bearer("alice"))).json() == {}
        assert (await core.chat()).headers["cache-status"] == "CachePolicy; fwd=bypass; detail=no-policy"


async def test_a_purge_in_the_policy_empties_the_caches(site: Site) -> None:
    """By provider, and everything."""
    site.apply(CACHES)
    async with site.replicas(1) as (core,):
        await core.chat()
        hits = []
        for purge in ({"providers": {"azure": "1"}}, {"providers": {"openai": "1"}}, {"all": "1"}):
            site.apply(CACHES, {"purge": purge})
            await site.enforced(core)
            hits.append("hit" in (await core.chat()).headers["cache-status"])
    assert hits == [True, False, False]


async def test_a_policy_that_moves_to_another_server_is_followed(site: Site, servers: Any) -> None:
    """New connections, no error, and the old ones closed at the end."""
    other: Server = servers("valkey")
    other.flush()
    site.apply(CACHES, SESSIONS, limit(100))
    async with site.replicas() as (first, second):
        await first.chat()
        site.url = other.url
        site.apply(CACHES, SESSIONS, limit(100))
        await site.enforced(first, second)
        moved = [await first.chat(), await second.chat()]
        with other.sync_client() as redis:
            assert redis.exists(KEYS.stamps)
    assert ["hit" in answer.headers["cache-status"] for answer in moved] == [False, True]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "is empty"),
        ('{"contract": "1.0", "pol', "cut off"),
        ('{"contract": "9.0"}', "contract"),
        ("[]", "one JSON object"),
    ],
)
async def test_a_bad_document_changes_nothing_and_says_why(site: Site, content: str, what: str) -> None:
    """The last good one stays in force; health names the reason; a good one ends it."""
    document = site.apply(limit(2))
    async with site.replicas(1) as (core,):
        site.write(names.FILE_POLICY, content)
        await degraded(core)
        health = await core.health()
        codes = [(await core.chat()).status_code for _ in range(3)]
        site.apply(limit(3))
        await site.enforced(core)
    assert health["revision"] == document.revision
    assert what in " ".join(health["reasons"])
    assert codes == [200, 200, 429]


async def test_a_document_whose_server_cannot_be_understood_changes_nothing(site: Site) -> None:
    """It passes the contract, and only connecting shows that it is wrong."""
    document = site.apply(limit(2))
    async with site.replicas(1) as (core,):
        broken = document.to_json().replace(site.url, "redis://host/not-a-number")
        site.write(names.FILE_POLICY, broken.replace('"sequence": 1', '"sequence": 2'))
        await degraded(core)
        health = await core.health()
        assert [(await core.chat()).status_code for _ in range(3)] == [200, 200, 429]
    assert "database that is not a number" in " ".join(health["reasons"])


async def test_core_starts_before_its_policy_and_takes_it_when_it_comes(site: Site) -> None:
    """No policy yet: from memory, degraded; then shared."""
    async with site.replica("core-0") as first, site.replica("core-1") as second:
        alone = await first.health()
        assert (await first.chat()).status_code == 200
        assert "hit" in (await first.chat()).headers["cache-status"]
        assert "hit" not in (await second.chat()).headers["cache-status"]
        site.apply(CACHES, SESSIONS, limit(100))
        await site.enforced(first, second)
        await first.chat("shared")
        assert "hit" in (await second.chat("shared")).headers["cache-status"]
    assert (alone["status"], alone["policy"], alone["revision"]) == ("degraded", None, None)
    assert "no policy yet" in alone["reasons"][0]


async def test_the_operators_copy_arrives_before_the_mounted_file(site: Site) -> None:
    """The fast path: a newer document of the same policy in Redis, and a wake-up."""
    site.apply(limit(2))
    async with site.replicas() as (first, second):
        mounted = (site.policy / names.FILE_POLICY).read_text()
        newer = site.apply(limit(5))
        site.write(names.FILE_POLICY, mounted)
        async with Server("", site.url).client() as redis:
            await redis.set(KEYS.document, newer.to_json())
            await redis.publish(KEYS.wake_channel, "")
        async with asyncio.timeout(2):
            await site.enforced(first, second)
        assert [(await first.chat()).status_code for _ in range(6)] == [200] * 5 + [429]


async def test_a_secret_that_changes_is_taken(site: Site) -> None:
    """The admin token and the HMAC key follow their files; the old key's entries are misses."""
    site.apply(CACHES)
    async with site.replicas() as (first, second):
        await first.chat()
        site.write(names.FILE_ADMIN_TOKEN, "the-next-admin-token")
        site.write(names.FILE_HMAC_KEY, "the-next-hmac-key-of-a-test-as-long")

        async def taken() -> bool:
            return (await first.clear("the-next-admin-token", tenant="nobody")).status_code == 200

        await until(taken)
        assert (await first.clear(tenant="acme")).status_code == 403
        await asyncio.sleep(1.1)  # secrets are looked at once a second
        assert "hit" not in (await first.chat()).headers["cache-status"]
        assert "hit" in (await second.chat()).headers["cache-status"]


# --- without an operator ----------------------------------------------------------------------------------


async def test_without_any_redis_everything_works_in_memory(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Cache, embeddings, sessions; one line says that nothing is shared."""
    caplog.set_level("INFO")
    environ = {key: value for key, value in site.environ.items() if key != "CACHEPOLICY_DIR"}
    async with site.replica("core-0", environ) as core:
        health = await core.health()
        await core.chat()
        assert "hit" in (await core.chat()).headers["cache-status"]
        await core.http.put("/v1/session", json={"n": 1}, headers=bearer("alice"))
        assert (await core.http.get("/v1/session", headers=bearer("alice"))).json() == {"n": 1}
        assert (await core.clear("any", all=True)).status_code == 403
    assert (health["status"], health["stores"]["state"]["status"]) == ("up", "memory")
    assert len([record for record in caplog.records if "not shared" in record.message]) == 2


async def test_one_redis_url_is_enough_to_share(site: Site, tmp_path: Path) -> None:
    """REDIS_URL, CACHE_HMAC_KEY_FILE and CACHE_ADMIN_TOKEN_FILE instead of a policy directory."""
    environ = {key: value for key, value in site.environ.items() if key != "CACHEPOLICY_DIR"}
    environ |= {
        "REDIS_URL": site.url,
        "CACHE_HMAC_KEY_FILE": str(site.policy / names.FILE_HMAC_KEY),
        "CACHE_ADMIN_TOKEN_FILE": str(site.policy / names.FILE_ADMIN_TOKEN),
    }
    async with site.replica("core-0", environ) as first, site.replica("core-1", environ) as second:
        await first.chat()
        assert "hit" in (await second.chat()).headers["cache-status"]
        await first.http.put("/v1/session", json={"n": 1}, headers=bearer("alice"))
        second.http.cookies = httpx.Cookies(first.http.cookies)
        assert (await second.http.get("/v1/session", headers=bearer("alice"))).json() == {"n": 1}
        assert (await first.clear(all=True)).status_code == 200
        assert (await first.health())["status"] == "up"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CACHEPOLICY_UPSTREAM_URL", "standin"),
        ("CACHEPOLICY_UPSTREAM_URL", "http://user:hunter2@standin"),
        ("CACHEPOLICY_UPSTREAM_API_KEY_FILE", "/nowhere/key"),
        ("CACHEPOLICY_API_KEYS_FILE", "/nowhere/keys.json"),
        ("CACHE_HMAC_KEY_FILE", "/nowhere/key"),
        ("REDIS_URL", "http://hunter2@redis"),
    ],
)
async def test_a_wrong_variable_ends_the_start_with_its_name(site: Site, variable: str, value: str) -> None:
    """And never repeats a value that may hold a password."""
    with pytest.raises(ValueError, match=variable) as caught:
        async with site.replica("core-0", {**site.environ, variable: value}):
            pass
    assert "hunter2" not in str(caught.value)


async def test_a_policy_without_a_server_of_its_own_still_limits(site: Site) -> None:
    """A document that names no Redis is enforced in memory."""
    document = site.apply(limit(2))
    alone: PolicyDocument = document.model_copy(
        update={"redis": document.redis.model_copy(update={"state": None})}
    )
    site.write(names.FILE_POLICY, alone.to_json())
    async with site.replica("core-0") as core:
        assert [(await core.chat()).status_code for _ in range(3)] == [200, 200, 429]


async def test_a_replica_that_stopped_leaves_nothing_running(site: Site) -> None:
    """No task and no acknowledgement."""
    before = asyncio.all_tasks()
    site.apply(CACHES, SESSIONS, limit(100))
    async with site.replicas():
        assert asyncio.all_tasks() != before
    assert asyncio.all_tasks() == before
    with Server("", site.url).sync_client() as redis:
        assert redis.zcard(KEYS.acknowledgements) == 0
