"""The background of a Core process: follow the policy, refresh the purge stamps, acknowledge.

One loop. It survives every outage without a word (the transport says once that the server is away), and after
one everything is written again by itself, also where the store came back empty.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress

from cachepolicy.acknowledgement import INTERVAL_SECONDS, Acknowledgement, Member
from cachepolicy.document import CONTRACT, PolicyDocument, Reading
from cachepolicy.stamps import newest
from cachepolicy_runtime.policy import PolicySource
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.port import ControlStore

_log = logging.getLogger("cachepolicy.control")

LOOK_S = 0.5
#: Half a second, so that a purge whose wake-up was lost is seen everywhere within one.
STAMPS_S = 0.5
#: With stamps older than this a purge could have been missed: the shared cache is not used.
STAMPS_STALE_S = 5.0
#: Pause before listening for wake-ups again.
_LISTEN_AGAIN_S = 1.0


#: What :meth:`Control.enforces` calls the second phase of limits, which is no section by itself.
SPENDING = "rateLimits/spending"


def credential_digest(password: str | None) -> str | None:
    """What an acknowledgement says about the password in use: 12 hex digits of its SHA-256."""
    return None if password is None else hashlib.sha256(password.encode()).hexdigest()[:12]


class Control:
    """What all processes share, as this process knows it.

    Args:
        member: this process.
        store: where the control keys are now; see :meth:`use`.
        source: the policy to follow, None where the policy is fixed.
        credential: digest of the password in use.
    """

    def __init__(
        self,
        member: Member,
        store: ControlStore,
        source: PolicySource | None = None,
        credential: Callable[[], str | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._member = str(member)
        self._store = store
        self._source = source
        self._credential = credential
        self._clock = clock
        self._applied: Reading | None = None
        self._enforced: set[str] = set()
        self._stamps: dict[str, str] = {}
        self._stamps_at = float("-inf")
        self._owed: tuple[str, tuple[str, ...]] | None = None
        self._acknowledged_at = float("-inf")
        self._live = 1
        self._epoch = ""
        self._due = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._chores: list[Callable[[], Awaitable[None]]] = []

    @property
    def live(self) -> int:
        """Processes that share the limits, as last counted; at least 1."""
        return max(1, self._live)

    @property
    def epoch(self) -> str:
        """The store's epoch as last seen; empty before."""
        return self._epoch

    @property
    def stamps(self) -> Mapping[str, str] | None:
        """The purge stamps; None while they are older than 5 s, so that a purge could have been missed."""
        return self._stamps if self._clock() - self._stamps_at <= STAMPS_STALE_S else None

    def enforces(self, section: str) -> None:
        """A middleware or client that enforces ``section`` of the policy is installed in this process."""
        if section not in self._enforced:
            self._enforced.add(section)
            self.acknowledge_soon()

    def applied(self, reading: Reading) -> None:
        """This process now enforces ``reading``: say so at once."""
        self._applied = reading
        self.acknowledge_soon()

    def use(self, store: ControlStore) -> None:
        """Go on with another store. What was known of the old one is forgotten."""
        self._store = store
        self._stamps, self._stamps_at = {}, float("-inf")
        self.acknowledge_soon()
        if self._running is not None:
            self._listen_anew()

    def every_beat(self, chore: Callable[[], Awaitable[None]]) -> None:
        """Also do this at each acknowledgement while the store answers. It may raise StoreUnavailable."""
        self._chores.append(chore)

    async def clear(self, fields: Iterable[str]) -> None:
        """Renew these stamps, so that what they cover is a miss everywhere within a second.

        Raises StoreUnavailable where the store did not confirm it. A wake-up that is lost is no failure: every
        process looks once a second.
        """
        await self._renew(list(fields), "")
        with suppress(StoreUnavailable):
            await self._store.wake()

    def purged(self, fields: tuple[str, ...], revision: str) -> None:
        """Values of ``spec.purge`` changed with this document: renew these stamps as well, once for all processes.

        While the store is away they stay owed; the values themselves count meanwhile.
        """
        if fields:
            before = self._owed[1] if self._owed is not None else ()
            self._owed = (revision, tuple(dict.fromkeys((*before, *fields))))
            self.acknowledge_soon()

    def acknowledge_soon(self) -> None:
        self._acknowledged_at = float("-inf")
        self._due.set()

    # --- the loop -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Look at everything once, then go on in the background."""
        await self.beat()
        self._listen_anew()
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the background and withdraw the acknowledgement, as far as the store answers."""
        tasks = [task for task in (self._running, self._listener) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running = self._listener = None
        with suppress(StoreUnavailable):
            await self._store.withdraw(self._member)

    async def beat(self) -> None:
        """One round: everything that is due. Raises nothing."""
        self._due.clear()
        try:
            if self._source is not None:
                self._source.look()
            if self._owed is not None:
                await self._pay(*self._owed)
            if self._clock() - self._stamps_at >= STAMPS_S:
                await self._ask_stamps(lambda seen: self._store.stamps(seen=seen))
            if self._clock() - self._acknowledged_at >= INTERVAL_SECONDS:
                await self._look_at_copy()
                await self._acknowledge()
                for chore in self._chores:
                    await chore()
        except StoreUnavailable:
            return
        except Exception:
            _log.exception("a round of the background failed; the next one follows")

    async def _run(self) -> None:
        while True:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._due.wait()
            await self.beat()

    async def _renew(self, fields: Sequence[str], revision: str) -> None:
        store = self._store
        await self._ask_stamps(lambda seen: store.set_stamps(fields, seen=seen, revision=revision))

    async def _ask_stamps(self, ask: Callable[[int], Awaitable[dict[str, str]]]) -> None:
        """All stamps, as the store answers. Of two answers that overtake each other the newer one stays."""
        store, asked_at = self._store, self._clock()
        stamps = await ask(newest(self._stamps))
        if store is self._store and asked_at >= self._stamps_at:
            self._stamps_at = asked_at
            if stamps != self._stamps:  # else the same object, by which others see that nothing changed
                self._stamps = stamps

    async def _pay(self, revision: str, fields: tuple[str, ...]) -> None:
        await self._renew(fields, revision)
        if self._owed == (revision, fields):
            self._owed = None

    async def _look_at_copy(self) -> None:
        if self._source is not None:
            self._source.offer(await self._store.document())

    async def _acknowledge(self) -> None:
        if self._applied is None:
            return
        asked_at = self._clock()
        beat = await self._store.acknowledge(self._member, self._record(self._applied))
        self._live, self._epoch = beat.live, beat.epoch
        if not self._due.is_set():
            self._acknowledged_at = asked_at

    def _record(self, reading: Reading) -> bytes:
        document = reading.document
        return (
            Acknowledgement(
                revision=document.revision,
                sequence=document.sequence,
                contract=CONTRACT,
                enforces=tuple(
                    section for section in document.sections if _parts(section, document) <= self._enforced
                ),
                ignored=reading.ignored,
                credential=self._credential(),
                refused=self._source.refused if self._source is not None else None,
                too_old=self._source is not None and self._source.too_old,
            )
            .to_json()
            .encode()
        )

    # --- wake-ups -----------------------------------------------------------------------------------------

    def _listen_anew(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
        self._listener = asyncio.create_task(self._listen(self._store))

    async def _listen(self, store: ControlStore) -> None:
        while True:
            with suppress(StoreUnavailable):
                async with aclosing(store.wakes()) as wakes:
                    async for _ in wakes:
                        self._stamps_at = min(self._stamps_at, self._clock() - STAMPS_S)
                        self.acknowledge_soon()
            await asyncio.sleep(_LISTEN_AGAIN_S)


def _parts(section: str, document: PolicyDocument) -> set[str]:
    """What has to be installed for a section: limits on tokens and models need more than a middleware."""
    limits = (document.rate_limits or {}).values() if section == "rateLimits" else ()
    return {section, SPENDING} if any(limit.in_spend_phase for limit in limits) else {section}
