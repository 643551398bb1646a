"""What one look at a Redis server shows, as values: decisions need nothing of a client for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cachepolicy.acknowledgement import Acknowledgement, Member


class DownReason(StrEnum):
    """Why a server is of no use, as the reason of a condition."""

    UNREACHABLE = "Unreachable"
    NO_ANSWER = "NoAnswer"
    LOADING = "Loading"
    WRONG_PASSWORD = "WrongPassword"  # noqa: S105 - a reason
    REFUSED = "CommandRefused"


@dataclass(frozen=True)
class Down:
    """A server that cannot be asked, and why, as a sentence without secrets."""

    reason: DownReason
    message: str


@dataclass(frozen=True)
class Look:
    """One server at one moment.

    ``run_id`` is new with each start of the server. ``used_memory`` in bytes. ``directives`` as CONFIG GET spells
    them. ``users``: who may log in → SHA-256 of the passwords, or ``nopass``. ``document`` and ``acknowledgements``
    only from the server of the control keys; only living processes are among the latter.
    """

    run_id: str
    version: str
    used_memory: int = 0
    loading: bool = False
    directives: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, frozenset[str]] = field(default_factory=dict)
    document: bytes | None = None
    acknowledgements: tuple[tuple[Member, Acknowledgement], ...] = ()

    @property
    def maxmemory(self) -> int:
        """Bytes; 0 is unlimited."""
        return int(self.directives.get("maxmemory") or 0)


def fingerprint(seen: Look | Down) -> object:
    """What must differ for a reconcile to be worth it. Memory in use and beats without news are no difference."""
    if isinstance(seen, Down):
        return seen.reason
    processes = {
        (str(member), ack.revision, ack.enforces, ack.refused) for member, ack in seen.acknowledgements
    }
    return (
        seen.run_id,
        seen.loading,
        tuple(sorted(seen.directives.items())),
        tuple(sorted((user, tuple(sorted(hashes))) for user, hashes in seen.users.items())),
        seen.document,
        frozenset(processes),
    )
