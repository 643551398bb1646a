"""The sessions of a user: listed, and ended one by one or all at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cachepolicy.identity import Identity
from cachepolicy_runtime.session import SessionsUnavailable
from cachepolicy_runtime.session_keeper import SessionKeeper
from cachepolicy_runtime.session_policy import SessionPolicy
from cachepolicy_runtime.store.port import SessionEntry, StoreUnavailable

_HANDLE = re.compile(r"[0-9a-f]{64}")
_ENDED_HERE = (
    "the sessions' store is away: what is to end has ended in this process and ends everywhere as soon as the "
    "store is back"
)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session of a user.

    Attributes:
        handle: names it, and opens nothing (a hash of its id; ``Session.handle`` of the same session).
        created, last_used, ends: in UTC, by the store's clock. It ends at ``ends`` unless it is used before.
        label: what the application called it.
    """

    handle: str
    created: datetime
    last_used: datetime
    ends: datetime
    label: str | None


class SessionOwners:
    """Ends sessions through the list of their owner."""

    def __init__(self, keeper: SessionKeeper) -> None:
        self._keeper = keeper

    async def list(self, policy: SessionPolicy, identity: Identity) -> tuple[SessionInfo, ...]:
        index = _index(policy, identity)
        try:
            await self._keeper.settle()
            entries = await self._keeper.store.owned(
                index, idle_ms=policy.idle_ms, absolute_ms=policy.absolute_ms
            )
        except StoreUnavailable:
            raise SessionsUnavailable("sessions cannot be listed while their store is away") from None
        return tuple(_info(policy, entry) for entry in entries)

    async def revoke(self, policy: SessionPolicy, identity: Identity, handle: str) -> bool:
        index = _index(policy, identity)
        if not _HANDLE.fullmatch(handle):
            return False
        key = policy.key_of_handle(handle)
        try:
            await self._keeper.settle()
            found = await self._keeper.store.destroy([key], owner=index)
        except StoreUnavailable:
            self._keeper.bury(key, index)
            raise SessionsUnavailable(_ENDED_HERE) from None
        if found:
            self._keeper.copies.drop(key)
        self._keeper.counts.revoked += found
        return found > 0

    async def revoke_all(self, policy: SessionPolicy, identity: Identity, keep_id: str | None) -> int:
        index = _index(policy, identity)
        keep = policy.key(keep_id) if keep_id is not None else None
        try:
            await self._keeper.settle()
            found = await self._keeper.store.destroy_owned(index, keep=keep)
        except StoreUnavailable:
            self._keeper.bury_owned(index, keep)
            raise SessionsUnavailable(_ENDED_HERE) from None
        self._keeper.copies.drop_owned(index, keep)
        self._keeper.counts.revoked += found
        return found


def _index(policy: SessionPolicy, identity: Identity) -> str:
    index = policy.index(identity)
    if index is None:
        raise ValueError("the sessions of a user need an Identity with a user")
    return index


def _info(policy: SessionPolicy, entry: SessionEntry) -> SessionInfo:
    ends_ms = min(entry.used_ms + policy.idle_ms, entry.created_ms + policy.absolute_ms)
    created, used, ends = (_moment(ms) for ms in (entry.created_ms, entry.used_ms, ends_ms))
    return SessionInfo(policy.handle_of_key(entry.key), created, used, ends, entry.label)


def _moment(unix_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)
