"""Sessions of the reference Core over two replicas: what their owner sees and ends, by cookie and by header."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.replicas import SESSIONS, Replica, Site, bearer, until
from tests.servers import Server
from tests.stores import LAYOUT, transport_to

from cachepolicy.identity import Identity
from cachepolicy.sessions import Sessions as SessionRules
from cachepolicy_runtime.sessions import SessionPolicy, Sessions
from cachepolicy_runtime.store.redis_sessions import RedisSessionStore

HEADER = {"sessions": {"carrier": "Either"}}


@pytest.fixture
def site(real_server: Server, tmp_path: Path) -> Site:
    return Site(tmp_path / "site", real_server.url)


class Device:
    """A client of its own with the key of one person: keeps the token that it is given."""

    def __init__(self, who: str, name: str) -> None:
        self.headers = {**bearer(who), "User-Agent": name, "X-Auth-Token": ""}

    async def ask(self, replica: Replica, method: str, path: str, **more: Any) -> httpx.Response:
        replica.http.cookies.clear()
        answer = await replica.http.request(method, path, headers=self.headers, **more)
        assert "set-cookie" not in answer.headers
        self.headers["X-Auth-Token"] = answer.headers.get("x-auth-token", self.headers["X-Auth-Token"])
        return answer

    async def begin(self, replica: Replica) -> None:
        assert (await self.ask(replica, "PUT", "/v1/session", json={"a": 1})).status_code == 200

    async def content(self, replica: Replica) -> Any:
        return (await self.ask(replica, "GET", "/v1/session")).json()

    async def listed(self, replica: Replica) -> list[dict[str, Any]]:
        answer = await self.ask(replica, "GET", "/v1/sessions")
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return list(answer.json()["sessions"])


async def test_a_user_sees_and_ends_its_sessions_from_any_replica(site: Site) -> None:
    """Which device, since when, and which one asks; an ended one is out at once, on the other replica too."""
    site.apply(HEADER)
    async with site.replicas() as (first, second):
        phone, laptop, bob = Device("alice", "Phone/1"), Device("alice", "Laptop/2"), Device("bob", "Bob/3")
        for device in (phone, laptop, bob):
            await device.begin(first)
        listed = await laptop.listed(second)
        assert [(one["label"], one["current"]) for one in listed] == [("Laptop/2", True), ("Phone/1", False)]
        for one in listed:
            created, used, ends = (
                datetime.fromisoformat(one[name]) for name in ("created", "lastUsed", "ends")
            )
            assert timedelta(0) <= datetime.now(UTC) - created < timedelta(minutes=1)
            assert created <= used
            assert timedelta(minutes=29) < ends - used <= timedelta(minutes=30)
            assert phone.headers["X-Auth-Token"] not in str(one)
        (handle,) = (one["handle"] for one in listed if not one["current"])
        assert await phone.content(first) == {"a": 1}
        assert (await laptop.ask(second, "DELETE", f"/v1/sessions/{handle}")).status_code == 204
        assert await phone.content(first) == {}
        assert await laptop.content(first) == {"a": 1}
        assert await bob.content(second) == {"a": 1}


async def test_nobody_ends_a_session_of_somebody_else(site: Site) -> None:
    """A handle that is not in the caller's list is not found, whoever's it is."""
    site.apply(HEADER)
    async with site.replicas(1) as (core,):
        alice, bob, eve = Device("alice", "a"), Device("bob", "b"), Device("eve", "e")
        for device in (alice, bob, eve):
            await device.begin(core)
        ((handle,),) = ([one["handle"] for one in await alice.listed(core)],)
        for device in (bob, eve):
            for name in (handle, "0" * 64, "x", "*"):
                refused = await device.ask(core, "DELETE", f"/v1/sessions/{name}")
                assert refused.status_code == 404
        assert await alice.content(core) == {"a": 1}
        assert (await core.http.get("/v1/sessions")).status_code == 401


@pytest.mark.parametrize("keep", [True, False])
async def test_a_user_ends_all_sessions_or_all_others(site: Site, keep: bool) -> None:
    """After a stolen laptop: everywhere, and nobody else's."""
    site.apply(HEADER)
    async with site.replicas() as (first, second):
        here, there, bob = Device("alice", "here"), Device("alice", "there"), Device("bob", "bob")
        for device in (there, bob, here):
            await device.begin(first)
        ended = await here.ask(second, "DELETE", "/v1/sessions" + ("?except=current" if keep else ""))
        assert ended.json() == {"ended": 1 if keep else 2}
        assert await there.content(first) == {}
        assert await here.content(first) == ({"a": 1} if keep else {})
        assert await bob.content(first) == {"a": 1}
        assert (await here.ask(first, "DELETE", "/v1/sessions?except=some")).status_code == 400


async def test_ending_the_session_that_asks_takes_its_cookie_away(site: Site) -> None:
    site.apply(SESSIONS)
    async with site.replicas(1) as (core,):
        await core.http.put("/v1/session", json={"a": 1}, headers=bearer("alice"))
        (one,) = (await core.http.get("/v1/sessions", headers=bearer("alice"))).json()["sessions"]
        assert one["current"]
        ended = await core.http.delete(f"/v1/sessions/{one['handle']}", headers=bearer("alice"))
        assert (ended.status_code, "Max-Age=0" in ended.headers["set-cookie"]) == (204, True)
        assert (await core.http.get("/v1/sessions", headers=bearer("alice"))).json() == {"sessions": []}


@contextmanager
def locked(url: str) -> Iterator[None]:
    """A server that lets nobody in any more, and keeps what it has."""
    with Server("", url).sync_client() as redis:
        redis.config_set("requirepass", "x")
        try:
            redis.client_kill_filter(_type="normal", skipme=True)
            yield
        finally:
            redis.config_set("requirepass", "")


async def test_listing_and_ending_are_503_while_the_store_is_away_and_the_end_comes_all_the_same(
    site: Site,
) -> None:
    """What was asked for is done as soon as the store is back, by itself."""
    site.apply(HEADER)
    async with site.replicas() as (first, second):
        lost, here = Device("alice", "lost"), Device("alice", "here")
        await lost.begin(first)
        await here.begin(second)
        handle = next(one["handle"] for one in await here.listed(second) if not one["current"])
        with locked(site.url):

            async def noticed() -> bool:
                return bool((await second.health())["status"] == "degraded")

            await until(noticed)
            for method, path in (("GET", "/v1/sessions"), ("DELETE", f"/v1/sessions/{handle}")):
                refused = await here.ask(second, method, path)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                assert "store is away" in refused.json()["error"]["message"]
        await site.enforced(first, second)
        assert await here.content(second) == {"a": 1}

        async def ended() -> bool:
            return bool(await lost.content(first) == {})

        await until(ended)


async def test_a_flash_of_changes_over_replicas_with_connections_of_their_own_loses_none(
    real_server: Server,
) -> None:
    """What another replica stored first comes with the answer that says so, and the change is made on it again."""
    policy = SessionPolicy(LAYOUT, SessionRules())
    transports = [transport_to(real_server.url) for _ in range(4)]
    replicas = [
        Sessions(RedisSessionStore(transport, LAYOUT), policy=lambda: policy) for transport in transports
    ]
    first = await replicas[0].open(policy, None)
    first["n"] = 0
    first.bind(Identity("acme", "ann"), label="phone")
    await replicas[0].commit(policy, first)

    def add(content: dict[str, Any]) -> None:
        content["n"] += 1

    async def change(replica: Sessions) -> None:
        await replica.update(await replica.open(policy, first.session_id), add)

    await asyncio.gather(*(change(replica) for replica in replicas * 25))
    assert (await replicas[3].open(policy, first.session_id))["n"] == 100
    assert sum(replica.counts.retried for replica in replicas) > 0
    (listed,) = await replicas[1].list(Identity("acme", "ann"))
    assert (listed.handle, listed.label) == (first.handle, "phone")
    for transport in transports:
        await transport.aclose()
