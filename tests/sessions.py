"""Sessions over a store that a test switches off and empties, with a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence

from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy.sessions import Sessions as SessionRules
from cachepolicy_runtime.sessions import CookieChange, SessionPolicy, Sessions
from cachepolicy_runtime.store.memory import MemorySessionStore
from cachepolicy_runtime.store.port import (
    SessionEntry,
    SessionRead,
    SessionSaved,
    SessionWrite,
    StoreUnavailable,
)

ANN, BOB = Identity("acme", "ann"), Identity("acme", "bob")
MINUTE = 60_000


class World:
    """A store that can go away or lose everything, shared by as many replicas as a test wants."""

    def __init__(self, on_failure: str = "ReadOnly", **rules: object) -> None:
        self.now = 1_000_000
        self.up = True
        self.calls: list[str] = []
        self.lose_everything()
        self.policy = SessionPolicy(
            KeyLayout("masterclaw/core"),
            SessionRules.model_validate({"onStoreFailure": on_failure, **rules}),
        )

    def lose_everything(self) -> None:
        self._inner = MemorySessionStore(lambda: self.now)

    def replica(self) -> Sessions:
        return Sessions(self, lambda: self.now, policy=lambda: self.policy)

    def _ask(self, verb: str) -> MemorySessionStore:
        if not self.up:
            raise StoreUnavailable("state", "connection refused")
        self.calls.append(verb)
        return self._inner

    async def load(self, key: str, *, idle_ms: int, absolute_ms: int) -> SessionRead:
        return await self._ask("load").load(key, idle_ms=idle_ms, absolute_ms=absolute_ms)

    async def save(self, key: str, write: SessionWrite) -> SessionSaved:
        self.saved_as = key
        return await self._ask("save").save(key, write)

    async def destroy(self, keys: Sequence[str], *, owner: str | None = None) -> int:
        return await self._ask("destroy").destroy(keys, owner=owner)

    async def destroy_owned(self, index: str, *, keep: str | None = None) -> int:
        return await self._ask("destroy_owned").destroy_owned(index, keep=keep)

    async def owned(self, index: str, *, idle_ms: int, absolute_ms: int) -> list[SessionEntry]:
        return await self._ask("owned").owned(index, idle_ms=idle_ms, absolute_ms=absolute_ms)

    async def started(self, replica: Sessions, owner: Identity | None = None, **values: object) -> str:
        """A stored session with these values; returns its cookie."""
        session = await replica.open(self.policy, None)
        session.update(values)
        session.owner = owner
        change = await replica.commit(self.policy, session)
        assert change is not None
        assert change.value is not None
        return change.value

    async def seen(self, replica: Sessions, cookie: str) -> dict[str, object]:
        return dict(await replica.open(self.policy, cookie))

    async def change(self, replica: Sessions, cookie: str, **values: object) -> CookieChange | None:
        session = await replica.open(self.policy, cookie)
        session.update(values)
        return await replica.commit(self.policy, session)
