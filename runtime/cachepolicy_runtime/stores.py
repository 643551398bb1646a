"""The stores of one policy: over its Redis servers, or in this process where it has none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cachepolicy.keys import KeyLayout
from cachepolicy.names import Role
from cachepolicy_runtime.settings import RedisTarget
from cachepolicy_runtime.store.cluster import ClusterTransport
from cachepolicy_runtime.store.cluster_control import ClusterControlStore
from cachepolicy_runtime.store.indexes import IndexStore, MemoryIndexStore, RedisIndexStore
from cachepolicy_runtime.store.leases import LeaseStore, MemoryLeaseStore, RedisLeaseStore
from cachepolicy_runtime.store.memory import (
    MemoryCacheStore,
    MemoryControlStore,
    MemoryLimitStore,
    MemorySessionStore,
)
from cachepolicy_runtime.store.port import CacheStore, ControlStore, LimitStore, SessionStore
from cachepolicy_runtime.store.redis import RedisTransport
from cachepolicy_runtime.store.redis_limits import RedisLimitStore
from cachepolicy_runtime.store.redis_sessions import RedisSessionStore
from cachepolicy_runtime.store.redis_stores import (
    RedisCacheStore,
    RedisControlStore,
)
from cachepolicy_runtime.store.transport import Transport, TransportSettings


class MemoryStores:
    """The stores of this process. They live as long as it does, whatever policies come and go."""

    def __init__(self) -> None:
        self.limits = MemoryLimitStore()
        self.sessions = MemorySessionStore()
        self.cache = MemoryCacheStore()
        self.control = MemoryControlStore()
        self.leases = MemoryLeaseStore(self.cache)
        self.indexes = MemoryIndexStore()


@dataclass(frozen=True, slots=True)
class Stores:
    """What one policy works with, from its adoption until the next one that has other servers.

    Attributes:
        transports: the connections by role, for health and for closing.
    """

    limits: LimitStore
    sessions: SessionStore
    cache: CacheStore
    control: ControlStore
    leases: LeaseStore
    indexes: IndexStore
    transports: Mapping[Role, Transport]

    @classmethod
    def connect(
        cls, targets: Mapping[Role, RedisTarget], keys: KeyLayout, memory: MemoryStores, deadline_s: float
    ) -> Stores:
        """Stores over these servers; where a role has none, in memory. Nothing is opened before its first use.

        ``deadline_s`` is the longest time that one call may take, in seconds.
        """
        transports = {role: _transport(role, target, deadline_s) for role, target in targets.items()}
        state, cache = transports.get(Role.STATE), transports.get(Role.CACHE)
        control = state or cache
        return cls(
            limits=RedisLimitStore(state) if state else memory.limits,
            sessions=RedisSessionStore(state, keys) if state else memory.sessions,
            cache=RedisCacheStore(cache) if cache else memory.cache,
            control=_control(control, keys) if control else memory.control,
            leases=RedisLeaseStore(cache, keys.released_channel) if cache else memory.leases,
            indexes=RedisIndexStore(cache) if cache else memory.indexes,
            transports=transports,
        )

    async def aclose(self) -> None:
        await asyncio.gather(*(transport.aclose() for transport in self.transports.values()))


def _transport(role: Role, target: RedisTarget, deadline_s: float) -> Transport:
    if target.address.clustered:
        return ClusterTransport(
            role.value,
            target.address,
            target.credentials,
            TransportSettings(deadline_s=deadline_s),
            tls=target.tls,
        )
    # Sessions and limits are small: their server gets one connection.
    settings = TransportSettings(deadline_s=deadline_s)
    if role is Role.STATE:
        settings = replace(settings, bulk_bytes=None)
    return RedisTransport(
        role.value,
        target.address,
        target.credentials,
        settings,
        tls=target.tls,
        sentinel_credentials=target.sentinel_credentials,
    )


def _control(transport: Transport, keys: KeyLayout) -> ControlStore:
    kind = ClusterControlStore if isinstance(transport, ClusterTransport) else RedisControlStore
    return kind(transport, keys)
