"""One embedded Redis server of a policy, brought to the configuration that its CachePolicy asks for."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from cachepolicy.keys import KeyLayout
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator import embedded
from cachepolicy_operator.embedded import EmbeddedServer
from cachepolicy_operator.liveconfig import (
    Attempt,
    LiveInputs,
    LivePlan,
    Running,
    managed_keys,
    plan,
    running_maxmemory,
)
from cachepolicy_operator.local_files import LocalFiles
from cachepolicy_operator.redis_admin import RedisServer, Target
from cachepolicy_operator.redis_look import Look
from cachepolicy_operator.resources import ServerConfig, memory
from cachepolicy_operator.resources.redis_conf import own_directives

# One CONFIG SET takes all that is new and one more what the first refused; more means that two answers contradict.
_MOST_STEPS: Final = 4


@dataclass(frozen=True)
class Settled:
    """What the server runs with: the content of its files, and what it refused, by directive in Redis's words."""

    config: ServerConfig
    rejected: Mapping[str, str]


class LocalServer:
    """The process, and the operator's connection to it. ``keys`` where it holds the control keys, else None."""

    def __init__(self, role: Role, files: LocalFiles, operator_password: str) -> None:
        self.role = role
        self._files = files
        self._password = operator_password
        self._hold: EmbeddedServer | None = None
        self._admin: RedisServer | None = None
        self._attempts: dict[tuple[str, str], Attempt] = {}

    @property
    def url(self) -> str:
        """Known before the server runs; makes the folder of the socket."""
        folder = self._files.server_folder(self.role)
        return f"unix://{quote(str(embedded.socket_folder(folder) / embedded.SOCKET_NAME))}"

    @property
    def running(self) -> bool:
        return self._hold is not None and self._hold.running

    @property
    def pid(self) -> int | None:
        return self._hold.pid if self._hold is not None and self._hold.running else None

    async def start(self) -> bool:
        """Start it where it does not run; True when it had to be. Raises :class:`embedded.EmbeddedError`."""
        if self.running:
            return False
        await self.stop()
        self._hold = await asyncio.to_thread(embedded.start, self._files.launch(self.role))
        return True

    async def stop(self) -> None:
        """Let it save its data and go. Harmless when it does not run."""
        if self._admin is not None:
            await self._admin.close()
        self._attempts.clear()  # another start may answer otherwise
        hold, self._hold = self._hold, None
        if hold is not None:
            await asyncio.to_thread(hold.stop)

    async def kill(self) -> None:
        """SIGKILL, as a node that dies would."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
        await self.stop()

    async def look(self, spec: CachePolicySpec, keys: KeyLayout | None) -> Look:
        """Raises :class:`cachepolicy_operator.redis_admin.RedisDownError`."""
        directives = managed_keys(self._live_inputs(spec, None))
        target = Target(self.url, (self._password,), directives, keys)
        if self._admin is None:
            self._admin = RedisServer(target)
        await self._admin.retarget(target)
        return await self._admin.look()

    async def publish(self, document: str) -> None:
        """Write the document where Core looks between two looks at its folder. After :meth:`look` only."""
        if self._admin is not None:
            await self._admin.publish(document)

    async def settle(self, spec: CachePolicySpec) -> Settled:
        """Bring every directive to what the spec asks for, as far as the server takes it without a restart."""
        for _ in range(_MOST_STEPS):
            seen = await self.look(spec, None)
            step = plan(self._live_inputs(spec, seen))
            if not step.to_set or self._admin is None:
                return self._settled(spec, seen, step)
            self._attempts |= await self._admin.set_directives(step.to_set)
        return self._settled(spec, seen, step)

    def _settled(self, spec: CachePolicySpec, seen: Look, step: LivePlan) -> Settled:
        wanted, running = memory.maxmemory(spec, self.role), self._maxmemory(spec, seen)
        different = running if running != wanted else None
        return Settled(ServerConfig(step.live, step.restart, different), step.rejected)

    def _live_inputs(self, spec: CachePolicySpec, seen: Look | None) -> LiveInputs:
        known = self._files.server_config(self.role)
        return LiveInputs(
            own=own_directives(spec, self.role, self._maxmemory(spec, seen)),
            wanted=spec.server(self.role).config,
            live=known.live,
            restart=known.restart,
            running=Running(seen.directives, dict(self._attempts)) if seen is not None else None,
        )

    def _maxmemory(self, spec: CachePolicySpec, seen: Look | None) -> int:
        wanted = memory.maxmemory(spec, self.role)
        if seen is None:
            return wanted
        return running_maxmemory(
            wanted=wanted,
            pod_allows=wanted,
            current=seen.maxmemory,
            used=seen.used_memory,
            evicts=self.role is Role.CACHE,
        )
