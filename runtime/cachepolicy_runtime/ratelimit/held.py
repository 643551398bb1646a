"""Leases of requests that are under way: renewed while they are, ended when they end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress

from cachepolicy_runtime.store.port import Lease, LimitStore, StoreUnavailable

#: A lease ends by itself after this time: the longest that the slots of a process stay taken which was killed.
LEASE_MS = 30_000
#: Two renewals may fail before a lease is lost.
RENEW_S = LEASE_MS / 3000


class HeldLease:
    """The leases of one request, in one store."""

    __slots__ = ("_keeper", "id", "leases", "store")

    def __init__(
        self, keeper: LeaseKeeper, store: LimitStore, lease_id: str, leases: Sequence[Lease]
    ) -> None:
        self._keeper = keeper
        self.id = lease_id
        self.store = store
        self.leases = leases

    def release(self) -> None:
        """The request is over. Any further call does nothing."""
        self._keeper.release(self)


class LeaseKeeper:
    """All leases that this process holds. It has a timer only while there are any."""

    def __init__(self) -> None:
        self._nonce = secrets.token_hex(8)
        self._made = 0
        self._held: dict[str, HeldLease] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._renewals: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._held)

    def new_id(self) -> str:
        """An id that no other request has, of any process."""
        self._made += 1
        return f"{self._nonce}-{self._made}"

    def hold(self, store: LimitStore, lease_id: str, keys: Sequence[str]) -> HeldLease:
        """Keep what ``store`` gave out under ``lease_id`` until it is released."""
        held = HeldLease(self, store, lease_id, [Lease(key, lease_id) for key in keys])
        self._held[lease_id] = held
        if self._timer is None:
            self._renew_later()
        return held

    def release(self, held: HeldLease) -> None:
        if self._held.pop(held.id, None) is not None:
            held.store.release(held.leases)
        if not self._held and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _renew_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(RENEW_S, self._renew_all)

    def _renew_all(self) -> None:
        for store in {held.store for held in self._held.values()}:
            task = asyncio.get_running_loop().create_task(self._renew(store))
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)
        self._renew_later()

    async def _renew(self, store: LimitStore) -> None:
        """Which are held is looked at when they are sent: to renew one that was released in between would take its
        slot again, for as long as a lease lasts."""
        leases = [lease for held in self._held.values() if held.store is store for lease in held.leases]
        if leases:
            with suppress(StoreUnavailable):
                await store.renew(leases, LEASE_MS)
