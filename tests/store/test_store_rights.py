"""Everything that the runtime does runs with the rights of Core's user, and those rights end there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from tests.servers import Server
from tests.stores import LAYOUT, PATIENT, SCRIPTS, stores_over

from cachepolicy import names
from cachepolicy.identity import Identity
from cachepolicy_operator.resources.acl import setuser_arguments
from cachepolicy_operator.resources.credentials import Credentials as Made
from cachepolicy_runtime.store.cluster_control import ClusterControlStore
from cachepolicy_runtime.store.endpoint import Credentials, fixed, parse_url
from cachepolicy_runtime.store.indexes import START, RedisIndexStore
from cachepolicy_runtime.store.leases import RedisLeaseStore
from cachepolicy_runtime.store.lua import script
from cachepolicy_runtime.store.port import (
    Adjustment,
    CacheItem,
    Check,
    Lease,
    LeaseCheck,
    LimitCheck,
    SessionWrite,
    StoreUnavailable,
    WindowRate,
)
from cachepolicy_runtime.store.redis import RedisTransport

PASSWORDS = Made("operator-password", "core-password", "hmac-key", "admin-token", "1")
INDEX = LAYOUT.user_sessions(Identity("a}b*", "ann"))


@pytest.fixture
async def core(real_server: Server) -> AsyncIterator[RedisTransport]:
    """A transport that is logged in as Core, on a server that knows no script yet."""
    async with real_server.client() as admin:
        await admin.script_flush()
        await admin.set(LAYOUT.document, b"the document")
    operator = RedisTransport("state", parse_url(real_server.url)[0], fixed(Credentials()), PATIENT)
    await operator.call("ACL", "SETUSER", *setuser_arguments(names.USER_CORE, LAYOUT.prefix, PASSWORDS))
    await operator.aclose()
    address, _ = parse_url(real_server.url)
    transport = RedisTransport(
        "state", address, fixed(Credentials(names.USER_CORE, PASSWORDS.core_password)), PATIENT
    )
    yield transport
    await transport.aclose()
    async with real_server.client() as admin:
        await admin.acl_deluser(names.USER_CORE)


async def test_every_verb_works_as_core(core: RedisTransport) -> None:
    stores = stores_over(core, "redis")
    rate = WindowRate(LAYOUT.limit("l", 1000, ["tenant=a"]), 5, 1000)
    log = WindowRate(LAYOUT.limit_log("l", 1000, ["tenant=a"]), 5, 1000, log=True)
    slots = LeaseCheck(LAYOUT.limit_leases("l", ["tenant=a"]), 1, 1000)
    asked: list[Check] = [LimitCheck((rate, log)), slots]
    admitted = await stores.limits.admit(asked, lease="a", shadows=[LimitCheck((rate,))])
    assert admitted.admitted
    assert not (await stores.limits.admit(asked, lease="b")).admitted
    await stores.limits.adjust([Adjustment(each, admitted.at_us, -1) for each in (rate, log)])
    await stores.limits.renew([Lease(slots.key, "a")], 1000)
    stores.limits.release([Lease(slots.key, "a")])
    old, new = LAYOUT.session("a"), LAYOUT.session("b")
    assert (await stores.sessions.save(old, SessionWrite(b"x", 0, 1000, 1000, INDEX))).saved
    assert (await stores.sessions.save(new, SessionWrite(b"x", 1, 1000, 1000, INDEX, old))).saved
    assert (await stores.sessions.save(new, SessionWrite(b"y", 2, 1000, 1000))).saved
    for absolute_ms in (1000, 2000):
        assert (await stores.sessions.load(new, idle_ms=1000, absolute_ms=absolute_ms)).record is not None
    assert [one.key for one in await stores.sessions.owned(INDEX, idle_ms=1000, absolute_ms=2000)] == [new]
    assert await stores.sessions.destroy([old]) == 0
    assert await stores.sessions.destroy_owned(INDEX) == 1
    key = LAYOUT.response("a%7Db", "openai", "d")
    await stores.cache.put(key, b"x", 1000)
    await stores.cache.mput([CacheItem(key, b"y", 1000)])
    assert (await stores.cache.get(key), await stores.cache.mget([key])) == (b"y", [b"y"])
    await stores.cache.delete(key)
    leases = RedisLeaseStore(core, LAYOUT.released_channel)
    assert (await leases.claim(f"{key}:s", "nonce", 1000, key)).held
    assert await leases.renew(f"{key}:s", "nonce", 1000)
    async with aclosing(leases.released()) as released:
        await anext(released)
        await leases.release(f"{key}:s", "nonce", 0)
        await anext(released)
    indexes, index = RedisIndexStore(core), LAYOUT.index("a%7Db", "langchain", "vectors")
    await indexes.add(index, [b"x"], 1000)
    assert await indexes.page(index, START) == (START, [b"x"])
    await indexes.remove(index, [b"x"])
    assert "all" in await stores.control.stamps()
    await stores.control.set_stamps(["all"])
    assert (await stores.control.acknowledge("pod/1/x", b"{}")).live == 1
    assert (await ClusterControlStore(core, LAYOUT).acknowledge("pod/1/x", b"{}")).live == 1
    await stores.control.withdraw("pod/1/x")
    assert await stores.control.document() == b"the document"
    async with aclosing(stores.control.wakes()) as wakes:
        await anext(wakes)
        await stores.control.wake()
        await anext(wakes)


async def test_every_script_that_is_shipped_was_run_above(core: RedisTransport) -> None:
    await test_every_verb_works_as_core(core)
    known = await core.call("SCRIPT", "EXISTS", *(script(name).sha for name in SCRIPTS))
    assert known == [1] * len(SCRIPTS)


@pytest.mark.parametrize(
    "command",
    [
        ("SET", LAYOUT.document, "forged"),
        ("SET", "another/policy:s:x", "x"),
        ("GET", "another/policy:s:x"),
        ("EVAL", "return redis.call('SET', 'cpctl:masterclaw/core:policy', 'forged')", 0),
        ("EVAL", "return redis.call('GET', KEYS[1])", 1, "another/policy:s:x"),
        ("PUBLISH", "another/policy:wake", ""),
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("SCRIPT", "FLUSH"),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
        ("FUNCTION", "LIST"),
    ],
)
async def test_core_cannot_reach_beyond_its_policy(
    core: RedisTransport, command: tuple[str | int, ...]
) -> None:
    with pytest.raises(StoreUnavailable, match=r"the server answered (NOPERM|ERR)"):
        await core.call(*command)
    assert await core.call("GET", LAYOUT.document) == b"the document"
