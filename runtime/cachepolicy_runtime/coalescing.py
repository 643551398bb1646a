"""Identical requests at the same time: one asks the provider, the others wait for its answer.

Within a process they wait on a :class:`Flight`. Over replicas the process that asks holds a lease, which it renews
while it asks; the others look at the entry whenever the lease is released, and every so often in case they missed
that. A process that dies loses its lease, and exactly one of those who wait takes it.

Nobody waits in a row: after an answer that could not be stored, or a call that failed, all who wait ask by
themselves at once, and for a while nobody waits for that entry at all ("hit for miss" in Varnish). What the asking
call raises is its caller's alone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from enum import Enum

from cachepolicy_runtime.background import Background
from cachepolicy_runtime.response_entries import Found
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.leases import LeaseStore

#: A lease of a process that died ends after this time.
LEASE_MS = 5_000
RENEW_S = 1.5
#: How often one who waits looks by himself.
LOOK_S = 0.25
#: How long nobody waits for an entry: after an answer that must not be stored, and after a call that failed.
UNCACHEABLE_MS = 60_000
FAILED_MS = 2_000
#: A subscription that nobody needs stays open for this long, in seconds.
_IDLE_S = 5.0
_LISTEN_AGAIN_S = 1.0

FlightId = tuple[str, str]


class Alone(Enum):
    """Instead of an answer to share."""

    APART = "apart"
    """Ask by yourself, and hold nobody up."""
    AGAIN = "again"
    """The one that asked was cancelled: somebody else takes its place."""


class Flight:
    """One call that others of this process wait for."""

    __slots__ = ("_landed",)

    def __init__(self) -> None:
        self._landed: asyncio.Future[Found | Alone] = asyncio.get_running_loop().create_future()

    def land(self, result: Found | Alone) -> None:
        if not self._landed.done():
            self._landed.set_result(result)

    async def wait(self, until: float) -> Found | Alone | None:
        """The result; None when ``until`` (the event loop's time) comes first."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                return await asyncio.shield(self._landed)
        return None


class Flights:
    """The calls of this process that are under way, by entry and stamp."""

    def __init__(self) -> None:
        self._flights: dict[FlightId, Flight] = {}

    def get(self, entry: FlightId) -> Flight | None:
        return self._flights.get(entry)

    def begin(self, entry: FlightId) -> Flight:
        flight = self._flights[entry] = Flight()
        return flight

    def end(self, entry: FlightId, flight: Flight, result: Found | Alone) -> None:
        """Those who come from now on do not wait for this one; once only."""
        if self._flights.get(entry) is flight:
            del self._flights[entry]
        flight.land(result)


class Lease:
    """The right to ask the provider for one entry, renewed until it is released."""

    def __init__(self, store: LeaseStore, name: str, nonce: str, background: Background) -> None:
        self._store = store
        self._name = name
        self._nonce = nonce
        self._background = background
        self._renewing = background.spawn(self._renew())

    def release(self, apart_ms: int = 0) -> None:
        """Give it up, in the background; for ``apart_ms`` nobody shall wait for the entry."""
        self._renewing.cancel()
        self._background.spawn(_give_up(self._store, self._name, self._nonce, apart_ms))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            with suppress(StoreUnavailable):
                if not await self._store.renew(self._name, self._nonce, LEASE_MS):
                    return


async def _give_up(store: LeaseStore, name: str, nonce: str, apart_ms: int) -> None:
    with suppress(StoreUnavailable):
        await store.release(name, nonce, apart_ms)


class Wakes:
    """Wakes those who wait for a lease, over one subscription that is there while somebody waits."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._waiting: dict[str, asyncio.Event] = {}
        self._listening: tuple[LeaseStore, asyncio.Task[None]] | None = None

    @contextmanager
    def of(self, store: LeaseStore, lease: str) -> Iterator[asyncio.Event]:
        """An event that is set when the lease may have been released."""
        event = self._waiting[lease] = asyncio.Event()
        self._listen_to(store)
        try:
            yield event
        finally:
            if self._waiting.get(lease) is event:
                del self._waiting[lease]
            if not self._waiting:
                asyncio.get_running_loop().call_later(_IDLE_S, self._rest)

    def close(self) -> None:
        if self._listening is not None:
            self._listening[1].cancel()
            self._listening = None

    def _listen_to(self, store: LeaseStore) -> None:
        if self._listening is not None:
            if self._listening[0] is store and not self._listening[1].done():
                return
            self._listening[1].cancel()
        self._listening = (store, self._background.spawn(self._listen(store)))

    def _rest(self) -> None:
        if not self._waiting:
            self.close()

    async def _listen(self, store: LeaseStore) -> None:
        while True:
            with suppress(StoreUnavailable):
                async with aclosing(store.released()) as names:
                    async for name in names:
                        self._wake(name)
            await asyncio.sleep(_LISTEN_AGAIN_S)

    def _wake(self, name: str) -> None:
        if name:
            if name in self._waiting:
                self._waiting[name].set()
            return
        for event in self._waiting.values():
            event.set()


class Leases:
    """Asks for leases on behalf of this process."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._wakes = Wakes(background)

    def close(self) -> None:
        """Listen no more."""
        self._wakes.close()

    async def claim(
        self, store: LeaseStore, lease: str, entry: str, usable: Callable[[bytes | None], Found | None]
    ) -> Found | Lease | Alone:
        """One try. An entry that came meanwhile, the lease, ``APART``, or ``AGAIN`` while somebody else has it.

        Raises StoreUnavailable.
        """
        nonce = secrets.token_hex(8)
        try:
            claim = await store.claim(lease, nonce, LEASE_MS, entry)
        except asyncio.CancelledError:  # it may be ours all the same, and nobody would give it up
            self._background.spawn(_give_up(store, lease, nonce, 0))
            raise
        held = Lease(store, lease, nonce, self._background) if claim.held else None
        if (found := usable(claim.value)) is not None:
            if held is not None:
                held.release()
            return found
        if held is not None:
            return held
        return Alone.APART if claim.apart else Alone.AGAIN

    async def turn(
        self,
        store: LeaseStore,
        lease: str,
        entry: str,
        usable: Callable[[bytes | None], Found | None],
        until: float,
    ) -> Found | Lease | Alone:
        """As :meth:`claim`, waiting while somebody else has it; ``AGAIN`` when ``until`` is over."""
        result = await self.claim(store, lease, entry, usable)
        if result is not Alone.AGAIN:
            return result
        now = asyncio.get_running_loop().time
        with self._wakes.of(store, lease) as woken:
            while now() < until:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(min(until, now() + LOOK_S)):
                        await woken.wait()
                woken.clear()
                result = await self.claim(store, lease, entry, usable)
                if result is not Alone.AGAIN:
                    return result
        return Alone.AGAIN
