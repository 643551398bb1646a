"""How a Core process says what it enforces.

Every process refreshes a member ``<pod>/<pid>/<nonce>`` in the ZSET ``P:ack``, scored by the server's time, and
beside it a record that lives for 10 s. A process that stopped is therefore forgotten within 10 s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

INTERVAL_SECONDS = 2.0
LIFETIME_MS = 10_000


@dataclass(frozen=True)
class Acknowledgement:
    """What one process enforces.

    ``enforces`` holds the sections whose middleware or client is really installed. ``ignored`` holds the
    document's paths that the process does not know. ``refused`` says why it keeps an older document, when it does,
    and ``too_old`` that only a newer runtime can take the new one.
    ``credential`` is a short hash of the password that it uses, None without one.
    """

    revision: str
    sequence: int
    contract: str
    enforces: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    credential: str | None = None
    refused: str | None = None
    too_old: bool = False

    def to_json(self) -> str:
        return json.dumps(
            {
                "revision": self.revision,
                "sequence": self.sequence,
                "contract": self.contract,
                "enforces": list(self.enforces),
                "ignored": list(self.ignored),
                "credential": self.credential,
                "refused": self.refused,
                "tooOld": self.too_old,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, data: bytes | str) -> Acknowledgement | None:
        """Read a record; None when it is not one (a process of another major contract, or damage)."""
        try:
            content = json.loads(data)
            return cls(
                revision=str(content["revision"]),
                sequence=int(content["sequence"]),
                contract=str(content["contract"]),
                enforces=_texts(content.get("enforces")),
                ignored=_texts(content.get("ignored")),
                credential=content.get("credential"),
                refused=content.get("refused"),
                too_old=content.get("tooOld") is True,
            )
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True)
class Member:
    """A process: the pod it runs in, its pid, and a nonce that tells two with the same pid apart."""

    pod: str
    pid: int
    nonce: str

    def __str__(self) -> str:
        return f"{self.pod}/{self.pid}/{self.nonce}"

    @classmethod
    def parse(cls, text: str) -> Member | None:
        pod, _, rest = text.partition("/")
        pid, _, nonce = rest.partition("/")
        return cls(pod, int(pid), nonce) if pod and pid.isdigit() and nonce else None


def lacking(acknowledgement: Acknowledgement, sections: Iterable[str]) -> tuple[str, ...]:
    """The sections that the process does not enforce."""
    return tuple(section for section in sections if section not in acknowledgement.enforces)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
