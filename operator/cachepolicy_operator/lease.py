"""One operator acts, however many run: a Lease of coordination.k8s.io/v1 says which.

The rules of client-go's leader election: no clock of another machine is believed. Whoever wants the Lease looks how
long, by its own clock, the record has not changed; whoever holds it stops acting well before others may take it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cachepolicy_operator import errors
from cachepolicy_operator.kinds import LEASE
from cachepolicy_operator.kube import Kube

NAME: Final = "cachepolicy-operator"
#: Seconds without a change of the record after which it may be taken over.
DURATION: Final = 10.0
#: Seconds after its last renewal at which a holder stops acting: before anybody else may begin.
DEADLINE: Final = 7.5
RENEW_PACE: Final = 4.0
#: Seconds between two looks of one that waits.
WAIT_PACE: Final = 1.5

log = logging.getLogger(__name__)

Json = dict[str, Any]


@dataclass(frozen=True)
class Sight:
    """The record as it was last seen, and since when (monotonic seconds) it has been like that."""

    version: str
    since: float


def free(lease: Json, identity: str, sight: Sight, now: float) -> bool:
    """Whether ``identity`` may take the Lease: nobody holds it, it is its own, or its holder has gone silent."""
    spec = lease.get("spec") or {}
    holder = spec.get("holderIdentity") or ""
    if holder in ("", identity):
        return True
    return now - sight.since > float(spec.get("leaseDurationSeconds") or DURATION)


def claimed(lease: Json | None, namespace: str, identity: str, now: datetime) -> Json:
    """The Lease as ``identity`` holds it from ``now`` on; a resourceVersion makes the write conditional."""
    spec = dict((lease or {}).get("spec") or {})
    stamp = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if spec.get("holderIdentity") != identity:
        transitions = int(spec.get("leaseTransitions") or 0) + (lease is not None)
        spec |= {"holderIdentity": identity, "acquireTime": stamp, "leaseTransitions": transitions}
    spec |= {"renewTime": stamp, "leaseDurationSeconds": int(DURATION)}
    metadata = {"name": NAME, "namespace": namespace}
    if lease is not None:
        metadata["resourceVersion"] = lease["metadata"]["resourceVersion"]
    return {"apiVersion": LEASE.api_version, "kind": LEASE.name, "metadata": metadata, "spec": spec}


class Leadership:
    """The Lease as one operator process sees it. ``identity`` must differ between processes: the pod's name."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        identity: str,
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._identity = identity
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._sight = Sight("", clock())
        self._renewed = float("-inf")
        self._mine: Json | None = None

    @property
    def held(self) -> bool:
        """Whether this process may act now. It turns false by time alone, also in a process that was stopped."""
        return self._clock() - self._renewed < DEADLINE

    async def acquire(self) -> None:
        """Return when the Lease is ours."""
        said = ""
        while True:
            words = await self._attempt()
            if not words:
                log.info("this operator holds the Lease %s/%s", self._namespace, NAME)
                return
            if words != said:
                log.info("waiting: %s", words)
                said = words
            await self._sleep(WAIT_PACE)

    async def hold(self) -> str:
        """Renew until that is no longer possible; returns why. Nothing may be written from then on."""
        words = ""
        while self.held:
            await self._sleep(RENEW_PACE if not words else WAIT_PACE / 2)
            words = await self._attempt()
            if words.startswith("held by"):
                self._renewed, self._mine = float("-inf"), None
        return words or "it was not renewed in time"

    async def release(self) -> None:
        """Let the next one begin at once. Best effort: without it, it begins when the Lease has run out."""
        if not self.held:
            return
        try:
            lease = await self._kube.get(LEASE, self._namespace, NAME)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease = claimed(lease, self._namespace, self._identity, self._now())
                lease["spec"]["holderIdentity"] = ""
                await self._kube.replace(lease)
        except errors.OperatorError as error:
            log.warning("the Lease was not given back: %s", error)
        self._renewed = float("-inf")

    async def _attempt(self) -> str:
        """Take or renew the Lease; empty when it is ours, else why not."""
        asked = self._clock()
        try:
            # Who holds it knows how it looks, and learns by a conflict when that is no longer so.
            lease = self._mine or await self._kube.find(LEASE, self._namespace, NAME)
            if lease is not None:
                self._see(lease["metadata"]["resourceVersion"])
                if not free(lease, self._identity, self._sight, self._clock()):
                    return f"held by {lease['spec']['holderIdentity']}"
            wanted = claimed(lease, self._namespace, self._identity, self._now())
            stored = await (self._kube.replace(wanted) if lease is not None else self._kube.create(wanted))
        except errors.Conflict:
            self._mine = None
            return "somebody else was faster"
        except errors.OperatorError as error:
            return str(error)
        self._mine = stored
        self._see(stored["metadata"]["resourceVersion"])
        # Counted from before the request: its answer may have come late.
        self._renewed = asked
        return ""

    def _see(self, version: str) -> None:
        if version != self._sight.version:
            self._sight = Sight(version, self._clock())
