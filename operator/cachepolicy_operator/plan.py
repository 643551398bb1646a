"""What a decision says: everything to do for one CachePolicy, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cachepolicy.document import PolicyDocument
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator import errors
from cachepolicy_operator.liveconfig import LiveInputs, LivePlan
from cachepolicy_operator.observed import Json


@dataclass(frozen=True)
class Notice:
    """An Event to come: ``warning`` or normal, a CamelCase reason and action, and a sentence."""

    reason: str
    action: str
    note: str
    warning: bool = False


@dataclass(frozen=True)
class Write:
    """An object to apply, and why (paths only)."""

    obj: Json
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Removal:
    """An object to delete, with what to say about it; ``orphan`` leaves its pods running."""

    kind: str
    name: str
    uid: str
    notice: Notice | None = None
    orphan: bool = False


@dataclass(frozen=True)
class Growth:
    """A claim to enlarge."""

    claim: str
    size: str


@dataclass(frozen=True)
class ServerPlan:
    """What was decided about one server.

    ``live``: the plan of its directives, made from ``inputs``. ``held``: why a smaller memory limit waits. ``users``: ACL SETUSER arguments of users that differ.
    """

    inputs: LiveInputs
    live: LivePlan
    pending_restart: tuple[str, ...] = ()
    held: str | None = None
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Everything to do, in the order of the fields, and what is known for the report.

    ``blocked`` says why nothing may be written at all. ``waits`` are things that time brings, as sentences.
    ``rotating``: what the replacement of Core's password waits for; empty where none is under way.
    """

    spec: CachePolicySpec | None
    document: PolicyDocument | None = None
    blocked: errors.OperatorError | None = None
    servers: Mapping[Role, ServerPlan] = field(default_factory=dict)
    growths: tuple[Growth, ...] = ()
    writes: tuple[Write, ...] = ()
    removals: tuple[Removal, ...] = ()
    publish: bool = False
    waits: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()
    rotating: str = ""

    @property
    def directives(self) -> dict[Role, Mapping[str, str]]:
        """CONFIG SETs to send now, by server."""
        return {role: server.live.to_set for role, server in self.servers.items() if server.live.to_set}

    @property
    def changes(self) -> int:
        """How many objects differ."""
        return len(self.growths) + len(self.writes) + len(self.removals)


class WaitingForGC(errors.RetryLater):
    """Objects of a deleted CachePolicy of the same name are still there; the garbage collector takes them."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="WaitingForGC", after=1.0)
