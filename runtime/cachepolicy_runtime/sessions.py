"""Sessions over all replicas: read and touched in one round trip, saved only when changed, never overwritten
blindly, listed and ended by their owner, and what the policy says while the store is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from cachepolicy.identity import Identity
from cachepolicy.sessions import SessionStoreFailure
from cachepolicy_runtime.session import (
    Session,
    SessionConflict,
    SessionError,
    SessionsUnavailable,
    SessionTooLarge,
    issued,
    new_id,
)
from cachepolicy_runtime.session_keeper import SessionCounts, SessionKeeper
from cachepolicy_runtime.session_owners import SessionInfo, SessionOwners
from cachepolicy_runtime.session_policy import SessionPolicy
from cachepolicy_runtime.store.memory import monotonic_ms
from cachepolicy_runtime.store.port import SessionSaved, SessionStore, SessionWrite, StoreUnavailable

__all__ = ["CookieChange", "SessionCounts", "SessionInfo", "SessionPolicy", "Sessions"]

#: What ``Sessions.update`` is given: it gets the content, and changes it or returns another.
Change = Callable[[dict[str, Any]], "dict[str, Any] | None"]

#: How often ``Sessions.update`` tries. In one process the changes of a session take turns, so that it fails only
#: where other replicas are faster this many times in a row.
ATTEMPTS = 64
_AWAY = "sessions cannot be {} while their store is away (sessions.onStoreFailure: {})"
_LOST = "another request changed the session first: nothing was saved, try again"


@dataclass(frozen=True, slots=True)
class CookieChange:
    """What the client is told: its session has the id ``value`` now, or has ended where that is None."""

    value: str | None


class Sessions:
    """Opens a session at the start of a request and commits it at the end.

    Args:
        policy: the rules in force, for the verbs that are not a part of one request's start and end.
    """

    def __init__(
        self,
        store: SessionStore,
        now_ms: Callable[[], int] = monotonic_ms,
        *,
        policy: Callable[[], SessionPolicy | None] = lambda: None,
    ) -> None:
        self._keeper = SessionKeeper(store, now_ms)
        self._owners = SessionOwners(self._keeper)
        self._policy = policy
        self.opened_by_middleware = False
        """Requests get their session from a middleware of this process."""
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def counts(self) -> SessionCounts:
        return self._keeper.counts

    def use(self, store: SessionStore) -> None:
        """Go on with another store; copies and pending destroys stay."""
        self._keeper.store = store

    async def settle(self) -> None:
        """Destroy what was to be destroyed while the store was away."""
        await self._keeper.settle()

    # --- in a request -------------------------------------------------------------------------------------

    async def open(self, policy: SessionPolicy, cookie: str | None) -> Session:
        """The session with the id that the client presents, or a new one. An id that was not issued here is
        ignored. Raises ``SessionsUnavailable`` where the store is away and the policy says Deny.
        """
        session_id = issued(cookie)
        if session_id is None:
            return Session(None)
        key = policy.key(session_id)
        try:
            record = await self._keeper.load(policy, key)
        except StoreUnavailable:
            return self._open_without_store(policy, key, session_id)
        if record is None:
            return Session(None)
        return Session(session_id, record.data, version=record.version)

    async def commit(self, policy: SessionPolicy, session: Session) -> CookieChange | None:
        """Save what changed; None where the client keeps the id that it has. An unchanged session costs nothing.

        If another request saved the session in between, its version stays and this change is lost (counted);
        of a change of the id, as at a log-in, that is an error.
        Raises ``SessionTooLarge``, ``SessionConflict``, ``SessionError`` for a value that is not JSON, and
        ``SessionsUnavailable`` where the store is away and the policy does not allow to change sessions then.
        """
        if session.destroyed:
            return await self._end(policy, session)
        data = session.unsaved()
        if data is not None and not (await self._write(policy, session, data)).saved:
            self.counts.conflicts += 1
            if session.rotated:
                raise SessionConflict(_LOST)
        told = session.session_id == session.client_id
        return None if told else CookieChange(session.session_id)

    async def update(self, session: Session, change: Change, *, attempts: int = ATTEMPTS) -> None:
        """Change a session so that no change of another request is lost: ``change`` gets the content and changes
        it, or returns another. It is called again, on what is stored then, each time another request was
        faster, so it does nothing but that. Saved when this returns.

        Raises what :meth:`commit` raises; ``SessionConflict`` where the session was ended meanwhile or others
        were faster ``attempts`` times.
        """
        policy = self._current()
        if session.destroyed or session.changed_content() is not None:
            raise SessionError(
                "the session has changes that are not saved yet: make them in the function as well"
            )
        async with self._turn(session):
            self._catch_up(policy, session)
            for _ in range(attempts):
                data = session.content_after(change)
                if data == session.content and not session.rotated:
                    return
                saved = await self._write(policy, session, data)
                if saved.saved:
                    return
                if saved.found is None:
                    raise SessionConflict("the session was ended meanwhile: nothing was saved")
                self.counts.retried += 1
                session.reload(saved.found.data, saved.version)
        raise SessionConflict(_LOST)

    # --- of a user ----------------------------------------------------------------------------------------

    async def list(self, identity: Identity) -> tuple[SessionInfo, ...]:
        """The sessions that ``identity`` was bound to and that are alive, the one begun last first; 256 at most.

        Raises ``ValueError`` for an identity without a user and ``SessionsUnavailable`` while the store is away.
        """
        return await self._owners.list(self._current(), identity)

    async def revoke(self, identity: Identity, handle: str) -> bool:
        """End the session of this user that has the handle, on all replicas; False where there is none.

        Raises as :meth:`list`. It has ended in this process even then, and ends everywhere as soon as the store
        is back.
        """
        return await self._owners.revoke(self._current(), identity, handle)

    async def revoke_all(self, identity: Identity, *, except_current: Session | None = None) -> int:
        """End all sessions of a user, or all but one; returns how many it were. Raises as :meth:`revoke`."""
        keep = except_current.session_id if except_current is not None else None
        return await self._owners.revoke_all(self._current(), identity, keep)

    # --- parts --------------------------------------------------------------------------------------------

    def _current(self) -> SessionPolicy:
        policy = self._policy()
        if policy is None:
            raise SessionError("the policy has no sessions")
        return policy

    async def _write(self, policy: SessionPolicy, session: Session, data: bytes) -> SessionSaved:
        failure = policy.rules.on_store_failure
        if session.read_only:
            raise SessionsUnavailable(_AWAY.format("changed", failure.value))
        if len(data) > policy.max_bytes:
            raise SessionTooLarge(len(data), policy.max_bytes)
        known_id = session.session_id
        session_id = new_id() if known_id is None or session.rotated else known_id
        write = SessionWrite(
            data,
            session.version,
            policy.idle_ms,
            policy.absolute_ms,
            policy.index(session.owner),
            policy.key(known_id) if known_id is not None and known_id != session_id else None,
            label=session.label,
        )
        key = policy.key(session_id)
        try:
            saved = await self._keeper.save(policy, key, write)
        except StoreUnavailable:
            if failure is not SessionStoreFailure.LOCAL:
                raise SessionsUnavailable(_AWAY.format("changed", failure.value)) from None
            self._keeper.save_here(key, write)
            saved = SessionSaved(True, max(session.version, 1), "")
        if saved.saved:
            session.saved(session_id, data, saved.version)
        return saved

    async def _end(self, policy: SessionPolicy, session: Session) -> CookieChange | None:
        if session.session_id is None:
            return None
        self._keeper.bury(policy.key(session.session_id))
        await self._keeper.settle_if_possible()
        return CookieChange(None)

    def _open_without_store(self, policy: SessionPolicy, key: str, session_id: str) -> Session:
        failure = policy.rules.on_store_failure
        if failure is SessionStoreFailure.DENY:
            raise SessionsUnavailable(_AWAY.format("read", failure.value))
        read_only = failure is SessionStoreFailure.READ_ONLY
        copy = self._keeper.copy_of(policy, key)
        if copy is None:
            return Session(None, read_only=read_only)
        return Session(session_id, copy.data, version=max(copy.version, 1), read_only=read_only)

    def _turn(self, session: Session) -> asyncio.Lock:
        """The changes of one session in this process wait here for each other."""
        if session.session_id is None:
            return asyncio.Lock()
        return self._turns.setdefault(session.session_id, asyncio.Lock())

    def _catch_up(self, policy: SessionPolicy, session: Session) -> None:
        """Begin with what the one before in the queue saved."""
        if session.session_id is None:
            return
        copy = self._keeper.copies.get(policy.key(session.session_id))
        if copy is not None and (copy.edited or copy.version > session.version):
            session.reload(copy.data, max(copy.version, 1))
