"""The control keys in a Redis Cluster, where one script cannot have keys of several slots."""

from __future__ import annotations

import asyncio
import secrets

from cachepolicy.acknowledgement import LIFETIME_MS
from cachepolicy_runtime.store.port import Beat
from cachepolicy_runtime.store.redis_stores import RedisControlStore
from cachepolicy_runtime.store.replies import blob_or_none, integer


class ClusterControlStore(RedisControlStore):
    """For a policy that has caches only, and those in a cluster."""

    async def acknowledge(self, member: str, record: bytes) -> Beat:
        """As three steps that need not happen together: each beat says everything again."""
        made = secrets.token_hex(16)
        live, _, found = await asyncio.gather(
            self._transport.script("beat", [self._keys.acknowledgements], [member, LIFETIME_MS]),
            self._transport.call("SET", self._keys.acknowledgement(member), record, "PX", LIFETIME_MS),
            self._transport.call("SET", self._keys.epoch, made, "NX", "GET"),
        )
        epoch = blob_or_none(found)
        return Beat(integer(live), epoch.decode() if epoch is not None else made)
