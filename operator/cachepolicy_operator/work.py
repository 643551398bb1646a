"""What is known while one CachePolicy is worked on, and what this process remembers of it from one time to the next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cachepolicy.document import PolicyDocument
from cachepolicy.names import Role
from cachepolicy_operator.liveconfig import Attempt
from cachepolicy_operator.observed import Json, ObjectId, Observed, ServerView, id_of
from cachepolicy_operator.queue import Key
from cachepolicy_operator.redis_look import Down, Look
from cachepolicy_operator.resources import Credentials


@dataclass
class Memory:
    """What this process knows of one CachePolicy beyond what the cluster holds. All of it may be lost.

    ``attempts`` by (server, run id). ``document``: the newest that was written. ``lagging``: a revision, and the loop
    time since when Core has been seen not to enforce it. ``passwords`` of the operator user, newest first.
    ``credentials`` of an attempt that failed half-way. ``versions``: resourceVersions when the policy was last found at rest; empty when it was not.
    """

    attempts: dict[tuple[Role, str], dict[tuple[str, str], Attempt]] = field(default_factory=dict)
    document: PolicyDocument | None = None
    lagging: tuple[str, float] | None = None
    unappliable: dict[ObjectId, tuple[str, str]] = field(default_factory=dict)
    passwords: tuple[str, ...] = ()
    credentials: Credentials | None = None
    versions: dict[ObjectId, str] = field(default_factory=dict)


@dataclass
class Work:
    """One reconcile: what was observed, brought up to date by each step."""

    key: Key
    memory: Memory
    observed: Observed
    wrote: bool = False

    def see_policy(self, policy: Json) -> None:
        """The CachePolicy as it is now."""
        self.observed = replace(self.observed, policy=policy)

    def see_object(self, obj: Json) -> None:
        """An object as it is stored now."""
        self.observed = replace(
            self.observed,
            objects={**self.observed.objects, id_of(obj): obj},
            unappliable=dict(self.memory.unappliable),
        )

    def lose_object(self, gone: ObjectId) -> None:
        """An object that was deleted."""
        left = {known: obj for known, obj in self.observed.objects.items() if known != gone}
        self.observed = replace(self.observed, objects=left)

    def see_server(self, role: Role, found: Look | Down) -> None:
        """What a look showed, with the answers of this life of the server."""
        attempts = self.memory.attempts.get((role, found.run_id), {}) if isinstance(found, Look) else {}
        view = ServerView(self.observed.server(role).pod, found, dict(attempts))
        self.observed = replace(self.observed, servers={**self.observed.servers, role: view})

    def see_lag(self, seconds: float) -> None:
        """For how long Core has not enforced everything."""
        self.observed = replace(self.observed, lagging_seconds=seconds)


def versions_of(observed: Observed) -> dict[ObjectId, str]:
    """resourceVersions by object, for the resync to compare."""
    objects = [
        observed.policy,
        *observed.objects.values(),
        *(view.pod for view in observed.servers.values() if view.pod is not None),
        *observed.core_pods,
    ]
    return {id_of(obj): obj["metadata"]["resourceVersion"] for obj in objects}
