"""Everything that a decision about one CachePolicy depends on, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cachepolicy.document import PolicyDocument
from cachepolicy.names import Role
from cachepolicy_operator.liveconfig import Attempt
from cachepolicy_operator.redis_look import Down, Look
from cachepolicy_operator.resources import Credentials

Json = dict[str, Any]
#: (kind, name) of an object in the policy's namespace.
ObjectId = tuple[str, str]


def id_of(obj: Mapping[str, Any]) -> ObjectId:
    """Kind and name."""
    return obj["kind"], obj["metadata"]["name"]


@dataclass(frozen=True)
class ServerView:
    """One Redis server: its pod, what the last look showed (None: nothing to look at), and earlier answers."""

    pod: Json | None = None
    seen: Look | Down | None = None
    attempts: Mapping[tuple[str, str], Attempt] = field(default_factory=dict)

    @property
    def look(self) -> Look | None:
        """The look, where the server answered and can be used."""
        return self.seen if isinstance(self.seen, Look) and not self.seen.loading else None


@dataclass(frozen=True)
class Observed:
    """One moment of one CachePolicy.

    ``objects`` holds what has a name or the labels of ours, somebody else's included; ``claims`` by name.
    ``credentials`` are complete; ``lost_credentials`` names those that had to be made anew although there were some.
    ``operator_namespace`` is None where the operator runs outside the cluster. ``spare_token`` is
    random, for a password that has to be made. ``remembered`` is the newest document that this process wrote. ``lagging_seconds``: for how long Core has not
    enforced everything, by the looks of this process. ``unappliable``: objects that differ after an apply, as
    (hash of what was sent, resourceVersion).
    """

    policy: Json
    default_image: str
    now: datetime
    credentials: Credentials
    lost_credentials: tuple[str, ...] = ()
    objects: Mapping[ObjectId, Json] = field(default_factory=dict)
    claims: Mapping[str, Json] = field(default_factory=dict)
    core_pods: tuple[Json, ...] = ()
    servers: Mapping[Role, ServerView] = field(default_factory=dict)
    operator_namespace: str | None = None
    spare_token: str = field(default="", repr=False)
    remembered: PolicyDocument | None = None
    lagging_seconds: float = 0.0
    unappliable: Mapping[ObjectId, tuple[str, str]] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return str(self.policy["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.policy["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.policy["metadata"]["uid"])

    @property
    def generation(self) -> int:
        return int(self.policy["metadata"].get("generation", 1))

    @property
    def status(self) -> Json:
        """The stored status."""
        return self.policy.get("status") or {}

    def server(self, role: Role) -> ServerView:
        return self.servers.get(role, ServerView())
