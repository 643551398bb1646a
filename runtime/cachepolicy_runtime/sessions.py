"""Sessions over all replicas: read and touched in one round trip, saved only when changed, never overwritten
blindly, and what the policy says while the store is away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy.sessions import Sessions as SessionRules
from cachepolicy.sessions import SessionStoreFailure
from cachepolicy_runtime.session import (
    Session,
    SessionsUnavailable,
    SessionTooLarge,
    id_hash,
    issued,
    new_id,
)
from cachepolicy_runtime.session_copies import Copies, Copy, Tombstones
from cachepolicy_runtime.store.memory import monotonic_ms
from cachepolicy_runtime.store.port import (
    SessionRead,
    SessionRecord,
    SessionStore,
    SessionWrite,
    StoreUnavailable,
)

_AWAY = "sessions cannot be {} while their store is away (sessions.onStoreFailure: {})"


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """The session section of one revision, with the keys it is stored under."""

    keys: KeyLayout
    rules: SessionRules

    @property
    def idle_ms(self) -> int:
        return self.rules.idle_timeout.milliseconds

    @property
    def absolute_ms(self) -> int:
        return self.rules.absolute_timeout.milliseconds

    def key(self, session_id: str) -> str:
        return self.keys.session(id_hash(session_id))

    def index(self, owner: Identity | None) -> str | None:
        return self.keys.user_sessions(owner) if owner is not None and owner.user is not None else None


@dataclass(frozen=True, slots=True)
class CookieChange:
    """What to do with the client's cookie: set it to ``value``, or remove it where that is None."""

    value: str | None


@dataclass(slots=True)
class SessionCounts:
    """Since the start of the process."""

    conflicts: int = 0
    """Changes lost because another request changed the session first."""
    recreated: int = 0
    """Sessions written again after the store had lost them."""
    copies_served: int = 0
    """Requests answered from a copy while the store was away."""


class Sessions:
    """Opens a session at the start of a request and commits it at the end."""

    def __init__(self, store: SessionStore, now_ms: Callable[[], int] = monotonic_ms) -> None:
        self.counts = SessionCounts()
        self._store = store
        self._now_ms = now_ms
        self._copies = Copies()
        self._tombstones = Tombstones()

    def use(self, store: SessionStore) -> None:
        """Go on with another store; copies and pending destroys stay."""
        self._store = store

    async def open(self, policy: SessionPolicy, cookie: str | None) -> Session:
        """The session that belongs to the cookie, or a new one. A cookie that was not issued here is ignored.

        Raises ``SessionsUnavailable`` where the store is away and the policy says Deny.
        """
        session_id = issued(cookie)
        if session_id is None:
            return Session(None)
        key = policy.key(session_id)
        try:
            await self.settle()
            record = await self._merged(policy, key)
        except StoreUnavailable:
            return self._open_without_store(policy, key, session_id)
        if record is None:
            return Session(None)
        return Session(session_id, record.data, version=record.version)

    async def commit(self, policy: SessionPolicy, session: Session) -> CookieChange | None:
        """Save what changed; None where the client's cookie stays as it is. An unchanged session costs nothing.

        If another request saved the session in between, its version stays and this change is lost (counted).
        Raises ``SessionTooLarge``, ``SessionError`` for a value that is not JSON, and ``SessionsUnavailable``
        where the store is away and the policy does not allow to change sessions then.
        """
        if session.destroyed:
            return await self._end(policy, session)
        data = session.changed_content()
        if data is None and not (session.rotated and not session.is_new):
            return None
        data = session.content if data is None else data
        if len(data) > policy.rules.max_bytes.bytes:
            raise SessionTooLarge(len(data), policy.rules.max_bytes.bytes)
        return await self._save(policy, session, data)

    async def destroy_user(self, policy: SessionPolicy, owner: Identity) -> None:
        """End all sessions of a user, everywhere; while the store is away, as soon as it is back."""
        index = policy.index(owner)
        if index is None:
            raise ValueError("destroy_user needs an Identity with a user")
        for key in self._copies.drop_owned(index):
            self._tombstones.add_key(key)
        self._tombstones.add_index(index)
        await self.settle_if_possible()

    async def settle(self) -> None:
        """Destroy what was to be destroyed while the store was away."""
        if not self._tombstones:
            return
        keys, indexes = tuple(self._tombstones.keys), tuple(self._tombstones.indexes)
        for start in range(0, len(keys), 500):
            await self._store.destroy(keys[start : start + 500])
        for index in indexes:
            await self._store.destroy_owned(index)
        for key in keys:
            self._tombstones.keys.pop(key, None)
        for index in indexes:
            self._tombstones.indexes.pop(index, None)

    async def settle_if_possible(self) -> None:
        """:meth:`settle`, later when the store is away."""
        try:
            await self.settle()
        except StoreUnavailable:
            return

    # --- with the store -----------------------------------------------------------------------------------

    async def _merged(self, policy: SessionPolicy, key: str) -> SessionRecord | None:
        """The stored session, after what was changed here while the store was away has been brought to it."""
        read = await self._store.load(key, idle_ms=policy.idle_ms, absolute_ms=policy.absolute_ms)
        copy = self._copies.get(key)
        record = read.record
        if copy is not None and (copy.edited or record is None):
            record = await self._reconciled(policy, key, copy, read)
        if record is None:
            self._copies.drop(key)
        else:
            self._remember(key, record, read.epoch, copy.index if copy else None)
        return record

    async def _reconciled(
        self, policy: SessionPolicy, key: str, copy: Copy, read: SessionRead
    ) -> SessionRecord | None:
        stored = read.record
        if stored is None:
            # The epoch is the same: the store was there all the time, so the session was destroyed or expired.
            # So it is taken where the epoch is not known of a session that was stored once.
            destroyed = copy.epoch == read.epoch or (copy.version > 0 and not copy.epoch)
            if destroyed or not copy.alive(self._now_ms(), policy.idle_ms, policy.absolute_ms):
                return None
        elif stored.version != copy.version:
            self.counts.conflicts += 1
            return stored
        age_ms = self._now_ms() - copy.created_ms
        write = self._write(policy, copy.data, stored.version if stored else 0, copy.index, age_ms=age_ms)
        saved = await self._store.save(key, write)
        if not saved.saved:
            self.counts.conflicts += 1
            return stored
        self.counts.recreated += stored is None
        return SessionRecord(copy.data, saved.version, age_ms)

    async def _save(self, policy: SessionPolicy, session: Session, data: bytes) -> CookieChange | None:
        if session.read_only:
            raise SessionsUnavailable(_AWAY.format("changed", policy.rules.on_store_failure.value))
        known_id = session.session_id
        session_id = new_id() if known_id is None or session.rotated else known_id
        key = policy.key(session_id)
        old = policy.key(known_id) if known_id is not None and known_id != session_id else None
        index = policy.index(session.owner)
        try:
            await self.settle()
            version = await self._expected(policy, old or key, session.version)
            write = self._write(policy, data, version, index, replaces=old)
            saved = await self._store.save(key, write)
        except StoreUnavailable:
            self._save_without_store(
                policy, key, write=self._write(policy, data, session.version, index, replaces=old)
            )
        else:
            known = self._copies.get(old or key)
            self._copies.drop(old or key)
            if not saved.saved:
                self.counts.conflicts += 1
                return None
            age_ms = self._now_ms() - known.created_ms if known else 0
            index = index or (known.index if known else None)
            self._remember(key, SessionRecord(data, saved.version, age_ms), saved.epoch, index)
        return CookieChange(session_id) if session_id != known_id else None

    async def _expected(self, policy: SessionPolicy, key: str, version: int) -> int:
        """The version to replace. A session changed here while the store was away is brought to it first."""
        copy = self._copies.get(key)
        if copy is None or not copy.edited:
            return version
        record = await self._merged(policy, key)
        return record.version if record is not None and record.data == copy.data else version

    async def _end(self, policy: SessionPolicy, session: Session) -> CookieChange | None:
        if session.session_id is None:
            return None
        key = policy.key(session.session_id)
        self._copies.drop(key)
        self._tombstones.add_key(key)
        await self.settle_if_possible()
        return CookieChange(None)

    def _write(
        self,
        policy: SessionPolicy,
        data: bytes,
        version: int,
        index: str | None,
        *,
        replaces: str | None = None,
        age_ms: int = 0,
    ) -> SessionWrite:
        return SessionWrite(data, version, policy.idle_ms, policy.absolute_ms, index, replaces, age_ms)

    def _remember(self, key: str, record: SessionRecord, epoch: str, index: str | None) -> None:
        now = self._now_ms()
        self._copies.put(key, Copy(record.data, record.version, now - record.age_ms, now, now, epoch, index))

    # --- without the store --------------------------------------------------------------------------------

    def _open_without_store(self, policy: SessionPolicy, key: str, session_id: str) -> Session:
        failure = policy.rules.on_store_failure
        if failure is SessionStoreFailure.DENY:
            raise SessionsUnavailable(_AWAY.format("read", failure.value))
        read_only = failure is SessionStoreFailure.READ_ONLY
        now, copy = self._now_ms(), self._copies.get(key)
        if (
            copy is None
            or key in self._tombstones.keys
            or not copy.alive(now, policy.idle_ms, policy.absolute_ms)
            or (read_only and not copy.serves(now))
        ):
            return Session(None, read_only=read_only)
        self.counts.copies_served += 1
        self._copies.put(key, replace(copy, used_ms=now))
        return Session(session_id, copy.data, version=max(copy.version, 1), read_only=read_only)

    def _save_without_store(self, policy: SessionPolicy, key: str, write: SessionWrite) -> None:
        if policy.rules.on_store_failure is not SessionStoreFailure.LOCAL:
            raise SessionsUnavailable(_AWAY.format("changed", policy.rules.on_store_failure.value))
        now, old = self._now_ms(), write.replaces
        copy = self._copies.get(old or key) or Copy(write.data, write.expected_version, now, now, now)
        if old is not None:
            # Under its new id it has never been stored; the old one ends as soon as the store is back.
            copy = replace(copy, version=0, epoch="")
            self._copies.drop(old)
            self._tombstones.add_key(old)
        copy = replace(copy, data=write.data, used_ms=now, index=write.index or copy.index, edited=True)
        self._copies.put(key, copy)
