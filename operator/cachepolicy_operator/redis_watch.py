"""Keeps an eye on every Redis server, and asks for a reconcile when something is not as the last one left it.

Each server has a task of its own, so that one that hangs delays no other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cachepolicy.names import Role
from cachepolicy_operator.queue import Key
from cachepolicy_operator.redis_admin import RedisDownError, RedisServer, Target
from cachepolicy_operator.redis_look import Down, Look, fingerprint

#: How long a pending change is awaited at the fast pace; one that takes longer is found at the usual one.
FAST_SECONDS: Final = 30.0

log = logging.getLogger(__name__)


@dataclass
class _Watched:
    server: RedisServer
    known: object = None
    fast_until: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class RedisWatch:
    """``enqueue`` is called for a policy of which a server differs; ``on_look`` after every look."""

    def __init__(
        self,
        enqueue: Callable[[Key], None],
        *,
        pace: float,
        fast_pace: float,
        on_look: Callable[[Key, Role, Look | Down], None] = lambda *_: None,
        deadline: float = 1.0,
    ) -> None:
        self._enqueue = enqueue
        self._pace = pace
        self._fast_pace = fast_pace
        self._on_look = on_look
        self._deadline = deadline
        self._watched: dict[tuple[Key, Role], _Watched] = {}

    async def server(self, key: Key, role: Role, target: Target) -> RedisServer:
        """The connection to one server, which is from now on watched; ``target`` is where it is now."""
        watched = self._watched.get((key, role))
        if watched is None:
            watched = _Watched(RedisServer(target, deadline=self._deadline))
            self._watched[key, role] = watched
            watched.task = asyncio.create_task(self._follow(key, role, watched), name=f"redis {key} {role}")
        else:
            await watched.server.retarget(target)
        return watched.server

    def known(self, key: Key, role: Role, seen: Look | Down, *, pending: bool) -> None:
        """What a reconcile has seen and dealt with: only something else is news. ``pending`` looks more often."""
        watched = self._watched.get((key, role))
        if watched is None:
            return
        watched.known = fingerprint(seen)
        now = asyncio.get_running_loop().time()
        if not pending:
            watched.fast_until = 0.0
        elif watched.fast_until == 0.0:
            watched.fast_until = now + FAST_SECONDS
            watched.wake.set()

    async def forget(self, key: Key, keep: frozenset[Role] = frozenset()) -> None:
        """Leave the servers of a policy alone, but those of the roles in ``keep``."""
        for watched_key in [item for item in self._watched if item[0] == key and item[1] not in keep]:
            watched = self._watched.pop(watched_key)
            if watched.task is not None:
                watched.task.cancel()
            await watched.server.close()

    async def close(self) -> None:
        """Leave all servers alone."""
        for key in {item[0] for item in self._watched}:
            await self.forget(key)

    async def _follow(self, key: Key, role: Role, watched: _Watched) -> None:
        while True:
            await self._pause(watched)
            seen = await look(watched.server)
            self._on_look(key, role, seen)
            found = fingerprint(seen)
            if found != watched.known:
                watched.known = found
                log.debug("%s: the %s server differs from what was left", key, role)
                self._enqueue(key)

    async def _pause(self, watched: _Watched) -> None:
        now = asyncio.get_running_loop().time()
        fast = now < watched.fast_until
        # Some jitter, so that many servers are not asked in one moment.
        pause = self._fast_pace if fast else self._pace * (0.9 + 0.2 * random.random())  # noqa: S311 - no secret
        watched.wake.clear()
        try:
            async with asyncio.timeout(pause):
                await watched.wake.wait()
        except TimeoutError:
            return


async def look(server: RedisServer) -> Look | Down:
    """A look, where being down is an answer."""
    try:
        return await server.look()
    except RedisDownError as error:
        return error.down
