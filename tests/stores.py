"""Every implementation of the store ports, for suites that run over all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.servers import KINDS, Server

from cachepolicy.keys import KeyLayout
from cachepolicy_runtime.store.endpoint import fixed, parse_url
from cachepolicy_runtime.store.lua import script
from cachepolicy_runtime.store.memory import (
    MemoryCacheStore,
    MemoryControlStore,
    MemoryLimitStore,
    MemorySessionStore,
)
from cachepolicy_runtime.store.port import CacheStore, ControlStore, LimitStore, SessionStore
from cachepolicy_runtime.store.redis import RedisTransport, TransportSettings
from cachepolicy_runtime.store.redis_limits import RedisLimitStore
from cachepolicy_runtime.store.redis_sessions import RedisSessionStore
from cachepolicy_runtime.store.redis_stores import (
    RedisCacheStore,
    RedisControlStore,
)

SCRIPTS = (
    "acknowledge",
    "beat",
    "lease_release",
    "lease_renew",
    "limits",
    "session_change",
    "session_destroy",
    "session_destroy_owned",
    "session_load",
    "session_owned",
    "session_save",
    "stamps",
)
STORE_KINDS = ("memory", *KINDS)
LAYOUT = KeyLayout("masterclaw/core")
#: A machine that is busy with other things must not make a test fail; deadlines are tested by themselves.
PATIENT = TransportSettings(deadline_s=5.0, connect_deadline_s=5.0)


@dataclass(frozen=True)
class Stores:
    """The four ports of one implementation."""

    kind: str
    limits: LimitStore
    sessions: SessionStore
    cache: CacheStore
    control: ControlStore


def transport_to(url: str, settings: TransportSettings = PATIENT) -> RedisTransport:
    address, credentials = parse_url(url)
    return RedisTransport("state", address, fixed(credentials), settings)


def stores_over(transport: RedisTransport, kind: str) -> Stores:
    return Stores(
        kind,
        RedisLimitStore(transport),
        RedisSessionStore(transport, LAYOUT),
        RedisCacheStore(transport),
        RedisControlStore(transport, LAYOUT),
    )


def load_scripts(server: Server) -> None:
    """fakeredis closes a connection after each error answer, also after the one that asks for a script's text;
    a real server does not."""
    with server.sync_client() as client:
        for name in SCRIPTS:
            client.script_load(script(name).text.decode())


@asynccontextmanager
async def opened(kind: str, servers: Callable[[str], Server]) -> AsyncIterator[Stores]:
    """Empty stores of this kind."""
    if kind == "memory":
        yield Stores(kind, MemoryLimitStore(), MemorySessionStore(), MemoryCacheStore(), MemoryControlStore())
        return
    server = servers(kind)
    server.flush()
    if kind == "fakeredis":
        load_scripts(server)
    transport = transport_to(server.url)
    try:
        yield stores_over(transport, kind)
    finally:
        await transport.aclose()
