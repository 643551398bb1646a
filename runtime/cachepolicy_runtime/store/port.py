"""The four ports between the runtime's domain and wherever the data is.

Each has one implementation over Redis (``redis_*.py``) and one in memory (``memory.py``). Every method may
raise :class:`StoreUnavailable` and nothing else. Keys are complete names from ``cachepolicy.keys``; the stores
derive none. All times are milliseconds and come from the store's clock, never from the caller's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from cachepolicy_runtime.store.errors import StoreUnavailable

__all__ = [
    "MAX_LISTED",
    "Adjustment",
    "Admission",
    "Beat",
    "CacheItem",
    "CacheStore",
    "Check",
    "ControlStore",
    "Lease",
    "LeaseCheck",
    "LimitCheck",
    "LimitStore",
    "RateState",
    "SessionEntry",
    "SessionRead",
    "SessionRecord",
    "SessionSaved",
    "SessionStore",
    "SessionWrite",
    "StoreUnavailable",
    "WindowRate",
]


# --- limits -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WindowRate:
    """At most ``limit`` units in any ``window_ms`` milliseconds (both ≥ 1), counted under ``key``.

    ``log`` remembers every unit by itself (exact); otherwise sub-buckets of a tenth of the window are counted.
    """

    key: str
    limit: int
    window_ms: int
    log: bool = False


@dataclass(frozen=True, slots=True)
class LimitCheck:
    """One limit asked for one caller.

    Attributes:
        rates: one or more windows that all have to hold.
        weight: units this request costs (≥ 0).
        prepared: what a store made of it the first time, to use it again.
    """

    rates: tuple[WindowRate, ...]
    weight: int = 1
    prepared: list[Any] = field(default_factory=list, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class LeaseCheck:
    """At most ``limit`` leases at once under ``key``; each ends by itself after ``timeout_ms`` without renewal."""

    key: str
    limit: int
    timeout_ms: int
    prepared: list[Any] = field(default_factory=list, compare=False, repr=False)


Check: TypeAlias = "LimitCheck | LeaseCheck"


class Adjustment(NamedTuple):
    """A correction of units that ``rate`` counted at ``at_us`` (the store's clock): so many more, or fewer.

    It goes where they were counted and never takes a count below 0. What has left the window stays as it is.
    A rate with a log can only be given back.
    """

    rate: WindowRate
    at_us: int
    units: int


class Lease(NamedTuple):
    """A lease that was got: its key and the id that it was asked with."""

    key: str
    id: str


class RateState(NamedTuple):
    """One rate (or the leases of one key) after the decision.

    Attributes:
        remaining: units still free, ≥ 0.
        reset_ms: until the whole limit is free again if nothing more is spent; 0 for leases.
        retry_ms: 0 where this rate had room, else until it will have room for this weight. For leases nobody
            knows, so it is when to try again.
    """

    remaining: int
    reset_ms: int
    retry_ms: int


class Admission(NamedTuple):
    """The decision over all checks: counted in all of them, or in none.

    Attributes:
        admitted: every check had room.
        states: per check, per rate, in the order asked; a check of leases has one.
        at_us: when, by the store's clock.
        shadows: the same for each shadow by itself; counted if it had room and the checks were admitted.
    """

    admitted: bool
    states: tuple[tuple[RateState, ...], ...]
    at_us: int = 0
    shadows: tuple[Admission, ...] = ()


class LimitStore(Protocol):
    """Counts what was admitted."""

    def admit(
        self,
        checks: Sequence[Check],
        *,
        shadows: Sequence[Check] = (),
        lease: str = "",
        refund: Sequence[Adjustment] = (),
    ) -> Awaitable[Admission]:
        """Decide all checks at once and count the request in all of them, or in none.

        ``lease`` is the id of every lease that is got. ``refund`` is carried out in the same step if the checks
        are refused. ``shadows`` are answered and change nothing about the decision.
        """
        ...

    def adjust(self, adjustments: Sequence[Adjustment]) -> Awaitable[None]:
        """Correct what was counted earlier, all in one step."""
        ...

    def renew(self, leases: Sequence[Lease], timeout_ms: int) -> Awaitable[None]:
        """Let these leases last ``timeout_ms`` from now on, also those that had ended."""
        ...

    def release(self, leases: Sequence[Lease]) -> None:
        """End these leases, without waiting for it: where that fails they end by themselves."""
        ...


# --- sessions ---------------------------------------------------------------------------------------------


class SessionRecord(NamedTuple):
    """A stored session.

    Attributes:
        data: its serialised content.
        version: counts the saves, ≥ 1.
        age_ms: since it was created.
        owner: key of its owner's list; None where it has no owner.
        label: what the application calls it; None where it has no name.
    """

    data: bytes
    version: int
    age_ms: int
    owner: str | None = None
    label: str | None = None


class SessionRead(NamedTuple):
    """Answer to a load: the record, or None where there is none, and the epoch of the store.

    The same epoch as before and no record means destroyed or expired; another epoch means that the store lost
    everything in between.
    """

    epoch: str
    record: SessionRecord | None


@dataclass(frozen=True, slots=True)
class SessionWrite:
    """A compare-and-set of one session.

    Attributes:
        data: the new content.
        expected_version: version it was loaded with; 0 creates and must find nothing.
        idle_ms, absolute_ms: time to live since the last use, since creation.
        index: key of the owner's list of sessions; None keeps the owner that the session has, if any.
        replaces: key of the session that this one takes over (rotation): ``expected_version`` is then the
            old one's, whose age is kept and which is removed in the same step.
        age_ms: age to give a session that is created (0, except when a lost one is created again).
        label: a name for the owner's list; None keeps the one that the session has, if any.
    """

    data: bytes
    expected_version: int
    idle_ms: int
    absolute_ms: int
    index: str | None = None
    replaces: str | None = None
    age_ms: int = 0
    label: str | None = None


class SessionSaved(NamedTuple):
    """Answer to a save.

    Attributes:
        saved: whether it was written.
        version: the version now stored (0: none there).
        epoch: the epoch of the store.
        found: what is stored instead, where it was not written and there is something.
    """

    saved: bool
    version: int
    epoch: str
    found: SessionRecord | None = None


class SessionEntry(NamedTuple):
    """One session in its owner's list; times are Unix milliseconds of the store's clock."""

    key: str
    created_ms: int
    used_ms: int
    label: str | None


class SessionStore(Protocol):
    """Keeps sessions under the hash of their id."""

    async def load(self, key: str, *, idle_ms: int, absolute_ms: int) -> SessionRead:
        """Read a session and count this as a use of it; one past its absolute time is removed instead."""
        ...

    async def save(self, key: str, write: SessionWrite) -> SessionSaved:
        """Write a session if the stored version is the expected one."""
        ...

    async def destroy(self, keys: Sequence[str], *, owner: str | None = None) -> int:
        """Remove these sessions, with ``owner`` (key of a list) only those in it; returns how many it were."""
        ...

    async def destroy_owned(self, index: str, *, keep: str | None = None) -> int:
        """Remove every session in an owner's list except ``keep``; returns how many it were."""
        ...

    async def owned(self, index: str, *, idle_ms: int, absolute_ms: int) -> list[SessionEntry]:
        """An owner's sessions that are alive, the one begun last first; at most :data:`MAX_LISTED`. No use of them."""
        ...


#: Sessions of one owner that are listed.
MAX_LISTED = 256


# --- cache ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CacheItem:
    """One value to store for ``ttl_ms`` milliseconds (≥ 1)."""

    key: str
    value: bytes
    ttl_ms: int


class CacheStore(Protocol):
    """Keeps bytes until they expire or are evicted."""

    async def get(self, key: str) -> bytes | None: ...

    async def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in the order of the keys, one round trip."""
        ...

    async def put(self, key: str, value: bytes, ttl_ms: int) -> None: ...

    async def mput(self, entries: Sequence[CacheItem]) -> None:
        """Store all of them, one round trip; in an outage some may be stored and others not."""
        ...

    async def delete(self, *keys: str) -> None: ...


# --- control ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Beat:
    """Answer to an acknowledgement: how many processes are alive (this one included), the store's epoch."""

    live: int
    epoch: str


class ControlStore(Protocol):
    """What all processes and the operator share: purge stamps, acknowledgements, the document's fast copy."""

    async def stamps(self, *, seen: int = 0) -> dict[str, str]:
        """All purge stamps, field → opaque value (see ``cachepolicy.stamps``).

        ``all`` is made anew where it is missing, and where the newest stamp is older than ``seen`` (microseconds,
        :func:`cachepolicy.stamps.newest`): a store that lost something makes everything cached before a miss.
        """
        ...

    async def set_stamps(self, fields: Sequence[str], *, seen: int = 0, revision: str = "") -> dict[str, str]:
        """Give each field a stamp that was never used before, and drop those of the scopes within.

        Returns all stamps, at most :data:`cachepolicy.stamps.MAX_FIELDS`. ``revision`` is that of the document
        that asks for it: one document renews once, whichever process comes first; empty renews in any case.
        """
        ...

    async def wake(self) -> None:
        """Tell every process to look at the stamps and the document now."""
        ...

    async def acknowledge(self, member: str, record: bytes) -> Beat:
        """Refresh this process's acknowledgement (it lapses after 10 s) and count the live ones."""
        ...

    async def withdraw(self, member: str) -> None:
        """Remove this process's acknowledgement, at a clean end."""
        ...

    async def document(self) -> bytes | None:
        """The operator's copy of the policy document."""
        ...

    def wakes(self) -> AsyncGenerator[None, None]:
        """Yields once for each wake-up, and once whenever listening (re)starts, for some may have been
        missed. Ends by raising StoreUnavailable."""
        ...
