"""Conditions of a CachePolicy: one helper that keeps times, and the two rules of kstatus.

`lastTransitionTime` changes only when a status flips (rule 23), so that the same finding twice gives the same list and
status is written on a difference only. `Reconciling` and `Stalled` are present only while they are true; the four
standing conditions are always present, and one that nobody has looked at yet is Unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from cachepolicy import status


class ConditionType(StrEnum):
    """Everything that the operator says about a CachePolicy, in the order in which it is shown."""

    READY = status.READY
    REDIS_AVAILABLE = status.REDIS_AVAILABLE
    CONFIG_APPLIED = status.CONFIG_APPLIED
    ENFORCED = status.ENFORCED
    RECONCILING = status.RECONCILING
    STALLED = status.STALLED


class Status(StrEnum):
    """Status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


ONLY_WHILE_TRUE: Final = frozenset({ConditionType.RECONCILING, ConditionType.STALLED})
STANDING: Final = tuple(kind for kind in ConditionType if kind not in ONLY_WHILE_TRUE)

_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_MESSAGE_LIMIT = 32768


@dataclass(frozen=True)
class Condition:
    """One finding, without times. Raises ValueError for a reason that the Kubernetes API would refuse."""

    type: ConditionType
    status: Status
    reason: str
    message: str = ""

    def __post_init__(self) -> None:
        if not _REASON.fullmatch(self.reason):
            raise ValueError(f"condition {self.type}: reason {self.reason!r} must be a CamelCase word")

    @classmethod
    def true(cls, kind: ConditionType, reason: str, message: str = "") -> Condition:
        """The condition holds."""
        return cls(kind, Status.TRUE, reason, message)

    @classmethod
    def false(cls, kind: ConditionType, reason: str, message: str = "") -> Condition:
        """The condition does not hold."""
        return cls(kind, Status.FALSE, reason, message)

    @classmethod
    def unknown(cls, kind: ConditionType, reason: str, message: str = "") -> Condition:
        """Nobody can tell."""
        return cls(kind, Status.UNKNOWN, reason, message)


def merge(
    before: Sequence[Mapping[str, Any]], found: Iterable[Condition], *, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """`status.conditions` after what was `found`: `before` is the stored list, `now` an aware time.

    Standing conditions that were not found keep what they said, for their generation; never said is Unknown.
    """
    stored = {str(item.get("type")): item for item in before}
    latest = {condition.type: condition for condition in found}
    merged = []
    for kind in ConditionType:
        condition = latest.get(kind)
        if condition is None:
            merged += [_kept(kind, stored.get(kind), generation, now)] if kind in STANDING else []
        elif kind in STANDING or condition.status is Status.TRUE:
            merged.append(_written(condition, stored.get(kind), generation, now))
    return merged


def status_of(conditions: Sequence[Mapping[str, Any]], kind: ConditionType) -> Status:
    """Status of one stored condition; missing is Unknown."""
    for item in conditions:
        if item.get("type") == kind:
            return Status(item["status"])
    return Status.UNKNOWN


def flipped(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conditions of `after` whose status or reason is not that of `before`: what deserves an Event."""
    said = {item["type"]: (item["status"], item["reason"]) for item in before}
    return [dict(item) for item in after if said.get(item["type"]) != (item["status"], item["reason"])]


def timestamp(now: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as metav1.Time is written."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _kept(
    kind: ConditionType, stored: Mapping[str, Any] | None, generation: int, now: datetime
) -> dict[str, Any]:
    if stored is not None:
        return dict(stored)
    return _written(Condition.unknown(kind, "NotLookedAt", "not looked at yet"), None, generation, now)


def _written(
    condition: Condition, stored: Mapping[str, Any] | None, generation: int, now: datetime
) -> dict[str, Any]:
    same = stored is not None and stored.get("status") == condition.status
    since = stored.get("lastTransitionTime") if stored is not None and same else None
    return {
        "type": str(condition.type),
        "status": str(condition.status),
        "observedGeneration": generation,
        "lastTransitionTime": since or timestamp(now),
        "reason": condition.reason,
        "message": condition.message[:_MESSAGE_LIMIT],
    }
