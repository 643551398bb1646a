"""The session store together with what this process remembers of it, so that an outage loses and revives nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cachepolicy.sessions import SessionStoreFailure
from cachepolicy_runtime.session_copies import Copies, Copy, Tombstones
from cachepolicy_runtime.session_policy import SessionPolicy
from cachepolicy_runtime.store.port import (
    SessionRead,
    SessionRecord,
    SessionSaved,
    SessionStore,
    SessionWrite,
    StoreUnavailable,
)

#: Sessions that are destroyed in one call.
_CHUNK = 500


@dataclass(slots=True)
class SessionCounts:
    """Since the start of the process."""

    conflicts: int = 0
    """Changes lost because another request changed the session first."""
    retried: int = 0
    """Changes made again, by ``Sessions.update``, on what another request had saved first."""
    recreated: int = 0
    """Sessions written again after the store had lost them."""
    copies_served: int = 0
    """Requests answered from a copy while the store was away."""
    revoked: int = 0
    """Sessions ended through the list of their owner."""


class SessionKeeper:
    """Every method that is asynchronous asks the store and raises ``StoreUnavailable``; the others do not."""

    def __init__(self, store: SessionStore, now_ms: Callable[[], int]) -> None:
        self.counts = SessionCounts()
        self.store = store
        self.copies = Copies()
        self.tombstones = Tombstones()
        self._now_ms = now_ms

    # --- with the store -----------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Destroy what was to be destroyed while the store was away."""
        tombstones = self.tombstones
        if not tombstones:
            return
        keys, indexes = dict(tombstones.keys), dict(tombstones.indexes)
        free = [key for key, owner in keys.items() if owner is None]
        for start in range(0, len(free), _CHUNK):
            await self.store.destroy(free[start : start + _CHUNK])
        for key, owner in keys.items():
            if owner is not None:
                await self.store.destroy([key], owner=owner)
        for index, keep in indexes.items():
            await self.store.destroy_owned(index, keep=keep)
        for key in keys:
            tombstones.keys.pop(key, None)
        for index in indexes:
            tombstones.indexes.pop(index, None)

    async def settle_if_possible(self) -> None:
        """:meth:`settle`, later when the store is away."""
        try:
            await self.settle()
        except StoreUnavailable:
            return

    async def load(self, policy: SessionPolicy, key: str) -> SessionRecord | None:
        """The stored session, after what was changed here while the store was away has been brought to it."""
        if self.tombstones:
            await self.settle()
        read = await self.store.load(key, idle_ms=policy.idle_ms, absolute_ms=policy.absolute_ms)
        copy, record = self.copies.get(key), read.record
        if copy is not None and (copy.edited or record is None):
            record = await self._reconciled(policy, key, copy, read)
        if record is None:
            self.copies.drop(key)
        else:
            self._remember(key, record, read.epoch)
        return record

    async def save(self, policy: SessionPolicy, key: str, write: SessionWrite) -> SessionSaved:
        """Replace the expected version; after an outage that of what was changed here meanwhile."""
        if self.tombstones:
            await self.settle()
        base = write.replaces or key
        copy = self.copies.get(base)
        if copy is not None and copy.edited:
            record = await self.load(policy, base)
            if record is not None and record.data == copy.data:
                write = replace(write, expected_version=record.version)
        saved = await self.store.save(key, write)
        known = self.copies.get(base)
        self.copies.drop(base)
        if saved.saved:
            age_ms = self._now_ms() - known.created_ms if known else write.age_ms
            owner = write.index or (known.owner if known else None)
            label = write.label or (known.label if known else None)
            self._remember(key, SessionRecord(write.data, saved.version, age_ms, owner, label), saved.epoch)
        return saved

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
        version = stored.version if stored else 0
        write = SessionWrite(
            copy.data, version, policy.idle_ms, policy.absolute_ms, copy.owner, None, age_ms, copy.label
        )
        saved = await self.store.save(key, write)
        if not saved.saved:
            self.counts.conflicts += 1
            return saved.found
        self.counts.recreated += stored is None
        return SessionRecord(copy.data, saved.version, age_ms, copy.owner, copy.label)

    def _remember(self, key: str, record: SessionRecord, epoch: str) -> None:
        now = self._now_ms()
        data, version, age_ms, owner, label = record
        self.copies.put(key, Copy(data, version, now - age_ms, now, now, epoch, owner, label))

    # --- without the store --------------------------------------------------------------------------------

    def copy_of(self, policy: SessionPolicy, key: str) -> Copy | None:
        """The copy that may be shown without the store, which counts as a use of it."""
        now, copy = self._now_ms(), self.copies.get(key)
        if (
            copy is None
            or key in self.tombstones.keys
            or not copy.alive(now, policy.idle_ms, policy.absolute_ms)
            or (policy.rules.on_store_failure is SessionStoreFailure.READ_ONLY and not copy.serves(now))
        ):
            return None
        self.counts.copies_served += 1
        self.copies.put(key, copy._replace(used_ms=now))
        return copy

    def save_here(self, key: str, write: SessionWrite) -> None:
        """Keep a change until the store is back."""
        now, old = self._now_ms(), write.replaces
        copy = self.copies.get(old or key) or Copy(write.data, write.expected_version, now, now, now)
        if old is not None:
            # Under its new id it has never been stored; the old one ends as soon as the store is back.
            copy = copy._replace(version=0, epoch="")
            self.bury(old)
        owner, label = write.index or copy.owner, write.label or copy.label
        copy = copy._replace(data=write.data, used_ms=now, owner=owner, label=label, edited=True)
        self.copies.put(key, copy)

    def bury(self, key: str, owner: str | None = None) -> None:
        """End a session here now, and in the store at the next :meth:`settle`; with ``owner`` (key of a list)
        only one of that owner."""
        copy = self.copies.get(key)
        if owner is None or (copy is not None and copy.owner == owner):
            self.copies.drop(key)
        self.tombstones.add_key(key, owner)

    def bury_owned(self, index: str, keep: str | None = None) -> None:
        """The same for all sessions of an owner but one."""
        for key in self.copies.drop_owned(index, keep):
            self.tombstones.add_key(key)
        self.tombstones.add_index(index, keep)
