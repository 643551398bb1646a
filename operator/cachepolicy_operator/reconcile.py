"""One CachePolicy: observe → decide → act → report.

Redis is asked before anything is written, as its answers decide what goes into its files, and told before the report,
so that status says what is true and does not flap when the operator starts again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from cachepolicy import names
from cachepolicy.document import PolicyDocument
from cachepolicy.keys import KeyLayout
from cachepolicy.names import Role
from cachepolicy_operator import compare, errors, rollout
from cachepolicy_operator.decide import decide, digest, read_policy
from cachepolicy_operator.kinds import CACHE_POLICY, CLAIM, KINDS, Kind
from cachepolicy_operator.kube import Kube
from cachepolicy_operator.liveconfig import Attempt, managed_keys, worth_keeping
from cachepolicy_operator.metrics import Metrics
from cachepolicy_operator.observe import Observer
from cachepolicy_operator.observed import Json, ObjectId, Observed, ServerView, id_of
from cachepolicy_operator.plan import Notice, Plan, Removal
from cachepolicy_operator.queue import Key
from cachepolicy_operator.redis_admin import RedisDownError, RedisServer, Target
from cachepolicy_operator.redis_look import Down, Look
from cachepolicy_operator.redis_watch import RedisWatch, look
from cachepolicy_operator.report import enforcement_of, report, transitions

# CONFIG SET of what is new, once more for what the first answers changed, and one to see that it is settled.
_MOST_ROUNDS: Final = 4
#: How long a report waits for Core after a new document went out, and how often it looks, in seconds.
_ECHO_WAIT: Final = 0.8
_ECHO_PACE: Final = 0.05
_CONFLICT_PAUSE: Final = 30.0
#: An object that the API server refuses may be let through when something else in the cluster has changed.
_REFUSED_PAUSE: Final = 60.0

_KINDS_BY_NAME: Final = {kind.name: kind for kind in KINDS.values()}

log = logging.getLogger(__name__)


@dataclass
class Memory:
    """What this process knows of one CachePolicy beyond what the cluster holds. All of it may be lost."""

    attempts: dict[tuple[Role, str], dict[tuple[str, str], Attempt]] = field(default_factory=dict)
    document: PolicyDocument | None = None
    lagging: tuple[str, float] | None = None
    unappliable: dict[ObjectId, tuple[str, str]] = field(default_factory=dict)
    passwords: tuple[str, ...] = ()
    versions: dict[ObjectId, str] = field(default_factory=dict)


class Reconciler:
    """Called by the queue for one key at a time. ``now`` gives an aware time, ``instance`` our name in Events."""

    def __init__(
        self,
        kube: Kube,
        watch: RedisWatch,
        metrics: Metrics,
        *,
        default_image: str,
        instance: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._observer = Observer(kube, default_image)
        self._watch = watch
        self._metrics = metrics
        self._instance = instance
        self._now = now
        self._memories: dict[Key, Memory] = {}

    @property
    def policies(self) -> tuple[Key, ...]:
        """The CachePolicies that are looked after."""
        return tuple(self._memories)

    def versions(self, key: Key) -> dict[ObjectId, str] | None:
        """resourceVersions of a policy's objects when it was last found at rest; None when it was not."""
        memory = self._memories.get(key)
        return memory.versions if memory is not None and memory.versions else None

    async def reconcile(self, key: Key) -> float | None:
        """Bring one CachePolicy to what its spec says. Seconds until the next look, None for when something happens.

        Raises the errors of :mod:`cachepolicy_operator.errors`.
        """
        policy = await self._observer.policy(key)
        if policy is None:
            await self._forget(key)
            return None
        memory = self._memories.setdefault(key, Memory())
        memory.versions = {}
        self._metrics.policies.set(len(self._memories))
        try:
            spec = read_policy(policy)
        except errors.Stalled as stalled:
            await self._say(policy, _without_spec(policy, self._now()), Plan(None, blocked=stalled), None)
            return None
        observed = await self._observer.observe(policy, spec, self._now())
        observed = replace(observed, remembered=memory.document, unappliable=dict(memory.unappliable))
        await self._watch.forget(key, keep=frozenset(spec.roles))
        return await _Run(self, key, memory, observed).go()

    async def _forget(self, key: Key) -> None:
        await self._watch.forget(key)
        if self._memories.pop(key, None) is not None:
            log.info("gone; its objects follow it by their owner reference")
        self._metrics.forget(key)
        self._metrics.policies.set(len(self._memories))

    async def _say(
        self, policy: Json, observed: Observed, plan: Plan, failure: errors.OperatorError | None
    ) -> Json:
        """Write status where it differs, then the Events of what turned. Returns the status."""
        before = policy.get("status") or {}
        after = report(observed, plan, failure)
        if after != before:
            await self._kube.replace_status({**policy, "status": after})
            self._metrics.wrote(CACHE_POLICY.name, "status")
            await self._announce(policy, transitions(before, after))
        return after

    async def _announce(self, policy: Json, notices: tuple[Notice, ...]) -> None:
        for notice in notices:
            log.info("%s: %s", notice.reason, notice.note)
            try:
                await self._kube.create_event(
                    policy,
                    kind="Warning" if notice.warning else "Normal",
                    reason=notice.reason,
                    action=notice.action,
                    note=notice.note,
                    now=self._now(),
                    instance=self._instance,
                )
            except errors.OperatorError as error:
                # An Event is a courtesy: that it is missing must not undo or repeat what it tells of.
                log.warning("the Event %s could not be recorded: %s", notice.reason, error)


class _Run:
    """One reconcile: the state that its steps hand on."""

    def __init__(self, owner: Reconciler, key: Key, memory: Memory, observed: Observed) -> None:
        self._owner = owner
        self._kube = owner._kube
        self._metrics = owner._metrics
        self._watch = owner._watch
        self._key = key
        self._memory = memory
        self._policy = observed.policy
        self._observed = observed
        self._servers: dict[Role, RedisServer] = {}
        self._wrote = False

    async def go(self) -> float | None:
        failure: errors.OperatorError | None = None
        await self._look_at_servers()
        plan = decide(self._observed)
        if plan.blocked is None and plan.spec is not None and not plan.spec.paused:
            plan = await self._settle_directives(plan)
            try:
                await self._write(plan)
                await self._tell_redis(plan)
            except (errors.RetryLater, errors.Stalled) as error:
                failure = error
            plan = decide(self._observed)
        self._count_lag(plan)
        status = await self._owner._say(self._policy, self._observed, plan, failure)
        self._hand_over(plan)
        if isinstance(failure, errors.RetryLater):
            raise failure
        if failure is not None:
            return _REFUSED_PAUSE
        pause = next_look(self._observed, plan, status)
        if pause is None and not self._wrote:
            self._memory.versions = versions_of(self._observed)
        return pause

    # -------------------------------------------------------------------------------------- asking Redis

    async def _look_at_servers(self) -> None:
        await asyncio.gather(*(self._connect(role) for role in self._observed.servers))
        await self._look_again(*self._servers)

    async def _connect(self, role: Role) -> None:
        pod = self._observed.server(role).pod
        address = _address(pod)
        if address is None:
            return
        operator_password = self._observed.credentials.operator_password
        known = [word for word in self._memory.passwords if word != operator_password]
        self._memory.passwords = (operator_password, *known)[:2]
        plan = decide(self._observed).servers.get(role)
        control = min(self._observed.servers, key=list(Role).index)
        target = Target(
            url=f"redis://{address}:{names.REDIS_PORT}",
            passwords=self._memory.passwords,
            directives=managed_keys(plan.inputs) if plan is not None else (),
            keys=KeyLayout.of_policy(*self._key) if role is control else None,
        )
        self._servers[role] = await self._watch.server(self._key, role, target)

    async def _look_again(self, *roles: Role) -> None:
        seen = await asyncio.gather(*(look(self._servers[role]) for role in roles))
        for role, found in zip(roles, seen, strict=True):
            self._set_view(role, found)

    def _set_view(self, role: Role, found: Look | Down) -> None:
        view = self._observed.server(role)
        attempts = self._memory.attempts.get((role, found.run_id), {}) if isinstance(found, Look) else {}
        servers = {**self._observed.servers, role: ServerView(view.pod, found, dict(attempts))}
        self._observed = replace(self._observed, servers=servers)
        self._metrics.looked(self._key, role, found)

    async def _settle_directives(self, plan: Plan) -> Plan:
        """CONFIG SET until the servers' answers leave nothing to ask."""
        for _ in range(_MOST_ROUNDS):
            if not plan.directives:
                break
            for role, wanted in plan.directives.items():
                await self._set_directives(role, dict(wanted))
            plan = decide(self._observed)
        for role, server in plan.servers.items():
            look_ = self._observed.server(role).look
            if look_ is not None and (role, look_.run_id) in self._memory.attempts:
                known = self._memory.attempts[role, look_.run_id]
                self._memory.attempts[role, look_.run_id] = worth_keeping(known, server.inputs, server.live)
        return plan

    async def _set_directives(self, role: Role, wanted: dict[str, str]) -> None:
        server, view = self._servers[role], self._observed.server(role)
        assert view.look is not None  # noqa: S101 - only a server that answers is given directives
        try:
            answered = await server.set_directives(wanted)
        except RedisDownError as error:
            self._set_view(role, error.down)
            return
        for (directive, _), attempt in answered.items():
            self._metrics.directive(attempt.outcome)
            log.info("%s server: CONFIG SET %s: %s", role, directive, attempt.reason or "OK")
        instance = (role, view.look.run_id)
        self._memory.attempts = {
            known: attempts
            for known, attempts in self._memory.attempts.items()
            if known[0] != role or known == instance
        }
        self._memory.attempts.setdefault(instance, {}).update(answered)
        await self._look_again(role)

    # ----------------------------------------------------------------------------------------- writing

    async def _write(self, plan: Plan) -> None:
        """Claims, objects in their order, then what has to go. Nothing without a last look at the policy."""
        if not plan.changes:
            return
        await self._still_wanted()
        self._wrote = True
        notices = list(plan.notices)
        for growth in plan.growths:
            change = {"spec": {"resources": {"requests": {"storage": growth.size}}}}
            await self._kube.patch(CLAIM, self._key.namespace, growth.claim, change)
            self._metrics.wrote(CLAIM.name, "grows")
            note = f"PersistentVolumeClaim {growth.claim} is asked to grow to {growth.size}"
            notices.append(Notice("VolumeGrows", "Resize", note))
        refused = await self._apply_all(plan)
        for removal in plan.removals:
            notices += await self._remove(removal)
        if plan.document is not None:
            self._memory.document = plan.document
        await self._owner._announce(self._policy, tuple(notices))
        if refused is not None:
            raise refused

    async def _apply_all(self, plan: Plan) -> errors.Invalid | None:
        """Apply in order. One that the API server refuses holds up none of the others: it is given back."""
        refused = None
        for write in plan.writes:
            try:
                await self._apply(write.obj, write.reasons)
            except errors.Invalid as error:
                refused = refused or error
        return refused

    async def _still_wanted(self) -> None:
        """Apply creates: a policy that was deleted or changed meanwhile must not come back in its objects."""
        fresh = await self._owner._observer.policy(self._key)
        same = ("uid", "generation")
        if fresh is None or any(
            fresh["metadata"].get(field_) != self._policy["metadata"].get(field_) for field_ in same
        ):
            raise errors.Superseded(f"{self._key} was changed or deleted")
        self._policy = fresh
        self._observed = replace(self._observed, policy=fresh)

    async def _apply(self, obj: Json, reasons: tuple[str, ...]) -> None:
        kind, name = id_of(obj)
        log.info("apply %s %s: %s", kind, name, "; ".join(reasons[:5]))
        try:
            stored = await self._kube.apply(obj)
        except errors.Invalid:
            if (kind, name) not in self._observed.objects:
                raise
            stored = await self._take_back(obj)
        stored = {"apiVersion": obj["apiVersion"], "kind": kind, **stored}
        self._metrics.wrote(kind, _kind_of_reason(reasons[0]))
        self._memory.unappliable.pop((kind, name), None)
        left = compare.difference(obj, stored, names.FIELD_MANAGER)
        if left:
            log.warning("%s %s still differs after it was applied: %s", kind, name, left[0])
            self._memory.unappliable[kind, name] = (digest(obj), stored["metadata"]["resourceVersion"])
        self._observed = replace(
            self._observed,
            objects={**self._observed.objects, (kind, name): stored},
            unappliable=dict(self._memory.unappliable),
        )

    async def _take_back(self, obj: Json) -> Json:
        """Replace what somebody wrote into a list beside our items so that both together are invalid.

        Server-side apply merges lists by key and cannot remove another's item: a port whose number was changed is a
        second port of the same name. A merge patch replaces whole lists; the apply after it makes them ours again.
        """
        kind, name = id_of(obj)
        log.info("%s %s: lists are replaced, as merging into them is refused", kind, name)
        content = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
        await self._kube.patch(_KINDS_BY_NAME[kind], self._key.namespace, name, content)
        return await self._kube.apply(obj)

    async def _remove(self, removal: Removal) -> tuple[Notice, ...]:
        """Delete; gives back the notice where there was something."""
        log.info("delete %s %s", removal.kind, removal.name)
        kind: Kind = _KINDS_BY_NAME[removal.kind]
        was_there = await self._kube.delete(
            kind,
            self._key.namespace,
            removal.name,
            uid=removal.uid,
            propagation="Orphan" if removal.orphan else "Background",
        )
        self._metrics.wrote(removal.kind, "unwanted")
        left = {
            known: obj
            for known, obj in self._observed.objects.items()
            if known != (removal.kind, removal.name)
        }
        self._observed = replace(self._observed, objects=left)
        return (removal.notice,) if was_there and removal.notice is not None else ()

    # -------------------------------------------------------------------------------------- telling Redis

    async def _tell_redis(self, plan: Plan) -> None:
        """Users first (their Secret is written), then the document (its ConfigMap is), then wait for the echo."""
        for role, server in plan.servers.items():
            if server.users:
                await self._set_users(role, server.users)
        # The first writes may have been what the control server was missing.
        plan = decide(self._observed)
        if not plan.publish or plan.spec is None or plan.document is None:
            return
        role = plan.spec.control_role
        try:
            await self._servers[role].publish(plan.document.to_json())
            await self._await_echo(role)
        except RedisDownError as error:
            self._set_view(role, error.down)

    async def _set_users(self, role: Role, users: dict[str, tuple[str, ...]] | object) -> None:
        assert isinstance(users, dict)  # noqa: S101
        try:
            for user, arguments in users.items():
                log.info("%s server: user %s is set as the Secret says", role, user)
                await self._servers[role].set_user(arguments)
            await self._look_again(role)
        except RedisDownError as error:
            self._set_view(role, error.down)

    async def _await_echo(self, role: Role) -> None:
        """A change that Core enforces within a moment is reported as enforced, in one write."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ECHO_WAIT
        while True:
            await self._look_again(role)
            found = enforcement_of(self._observed, decide(self._observed))
            if found is None or not found.lagging or loop.time() > deadline:
                return
            await asyncio.sleep(_ECHO_PACE)

    # ------------------------------------------------------------------------------------------ the end

    def _count_lag(self, plan: Plan) -> None:
        """For how long Core has not enforced this very revision."""
        found, now = enforcement_of(self._observed, plan), asyncio.get_running_loop().time()
        if found is None or not found.lagging or plan.document is None:
            self._memory.lagging = None
        elif self._memory.lagging is None or self._memory.lagging[0] != plan.document.revision:
            self._memory.lagging = (plan.document.revision, now)
        seconds = now - self._memory.lagging[1] if self._memory.lagging is not None else 0.0
        self._observed = replace(self._observed, lagging_seconds=seconds)
        self._metrics.lag.labels(*self._key).set(seconds)

    def _hand_over(self, plan: Plan) -> None:
        """From here on the Redis loop watches: what was seen now is known."""
        lagging = self._memory.lagging is not None
        for role, view in self._observed.servers.items():
            if role in self._servers and view.seen is not None:
                server = plan.servers.get(role)
                pending = lagging or (server is not None and not server.live.settled)
                self._watch.known(self._key, role, view.seen, pending=pending)


def next_look(observed: Observed, plan: Plan, status: Json) -> float | None:
    """Seconds until the next look; None where an event, the Redis loop or the resync will tell."""
    if isinstance(plan.blocked, errors.RetryLater):
        return plan.blocked.after
    if isinstance(plan.blocked, errors.Stalled):
        # Somebody else's object is not watched.
        return _CONFLICT_PAUSE if plan.blocked.reason == "NameConflict" else None
    ready = next((item for item in status["conditions"] if item["type"] == "Ready"), None)
    if ready is not None and ready["status"] != "True":
        # Pods of Redis are not watched, and what holds them up shows on them only.
        since = datetime.fromisoformat(ready["lastTransitionTime"])
        return 1.0 if (observed.now - since).total_seconds() < 60 else 5.0
    if observed.lagging_seconds or any(server.held for server in plan.servers.values()):
        return 3.0
    return None


def versions_of(observed: Observed) -> dict[ObjectId, str]:
    """resourceVersions by object, for the resync to compare."""
    objects = [
        observed.policy,
        *observed.objects.values(),
        *(view.pod for view in observed.servers.values() if view.pod is not None),
        *observed.core_pods,
    ]
    return {id_of(obj): obj["metadata"]["resourceVersion"] for obj in objects}


def _address(pod: Json | None) -> str | None:
    """IP of a pod that can be asked."""
    if pod is None or rollout.terminating(pod):
        return None
    status = pod.get("status") or {}
    address = status.get("podIP") if status.get("phase") == "Running" else None
    return f"[{address}]" if address and ":" in address else address


def _kind_of_reason(reason: str) -> str:
    """A reason of :func:`compare.difference` without its path: few values, for a metric."""
    words = reason.rpartition(": ")[2]
    return {"missing": "missing", "changed": "changed", "no longer wanted": "unwanted"}.get(
        words, "taken over"
    )


def _without_spec(policy: Json, now: datetime) -> Observed:
    """An Observed for a policy whose spec cannot be read: nothing else matters."""
    from cachepolicy_operator.resources import Credentials

    return Observed(policy=policy, default_image="", now=now, credentials=Credentials("", "", "", "", ""))
