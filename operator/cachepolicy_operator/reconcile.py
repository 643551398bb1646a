"""One CachePolicy: observe → decide → act → report.

Redis is asked before anything is written, as its answers decide what goes into its files, and told before the report,
so that status says what is true and does not flap when the operator starts again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from cachepolicy_operator import errors
from cachepolicy_operator.conditions import ConditionType, Status, status_of
from cachepolicy_operator.decide import decide, read_policy
from cachepolicy_operator.kinds import CACHE_POLICY
from cachepolicy_operator.kube import Kube
from cachepolicy_operator.metrics import Metrics
from cachepolicy_operator.observe import Observer
from cachepolicy_operator.observed import Json, ObjectId, Observed
from cachepolicy_operator.plan import Notice, Plan
from cachepolicy_operator.queue import Key
from cachepolicy_operator.redis_watch import RedisWatch
from cachepolicy_operator.report import PATIENCE_SECONDS, report, transitions
from cachepolicy_operator.resources import Credentials
from cachepolicy_operator.servers import Servers
from cachepolicy_operator.work import Memory, Work, versions_of
from cachepolicy_operator.writer import Writer

# Pauses in seconds where neither an event nor the Redis loop tells that something changed.
#: Redis's pods are not watched: soon after something began, and later.
STARTING_PAUSE: Final = 1.0
BROKEN_PAUSE: Final = 5.0
STARTING_SECONDS: Final = 60.0
#: Somebody else's object is not watched.
CONFLICT_PAUSE: Final = 30.0
#: An object that the API server refuses may be let through when something else in the cluster has changed.
REFUSED_PAUSE: Final = 60.0
#: After a write there is another look in any case: of a Secret, which is not watched, no event would tell.
WRITTEN_PAUSE: Final = 1.0
#: Memory that is in use is freed by clients, without a sign.
HELD_PAUSE: Final = 15.0
#: Core takes a new password when the kubelet has written it into its file.
ROTATING_PAUSE: Final = 1.0
#: Pods by a selector of the policy's own are not watched; what they report is.
SELECTOR_PAUSE: Final = 60.0

log = logging.getLogger(__name__)


class Reconciler:
    """Called by the queue for one key at a time. ``now`` gives an aware time, ``instance`` our name in Events."""

    def __init__(
        self,
        kube: Kube,
        watch: RedisWatch,
        metrics: Metrics,
        *,
        default_image: str,
        operator_namespace: str | None = None,
        instance: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kube = kube
        self._observer = Observer(kube, default_image, operator_namespace)
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
            nothing = Credentials("", "", "", "", "")
            observed = Observed(policy=policy, default_image="", now=self._now(), credentials=nothing)
            await self._say(observed, Plan(None, blocked=stalled))
            return None
        observed = await self._observer.observe(policy, spec, self._now(), memory.credentials)
        observed = replace(observed, remembered=memory.document, unappliable=dict(memory.unappliable))
        await self._watch.forget(key, keep=frozenset(spec.roles))
        return await self._work(Work(key, memory, observed))

    async def _work(self, work: Work) -> float | None:
        servers = Servers(work, self._watch, self._metrics)
        await servers.look()
        plan = decide(work.observed)
        failure: errors.OperatorError | None = None
        if plan.blocked is None and plan.spec is not None and not plan.spec.paused:
            failure = await self._act(work, servers, await servers.settle(plan))
            plan = decide(work.observed)
        lagging = servers.count_lag(plan)
        status = await self._say(work.observed, plan, failure)
        servers.hand_over(plan)
        if isinstance(failure, errors.RetryLater):
            raise failure
        if failure is not None:
            return REFUSED_PAUSE
        pause = next_look(work.observed, plan, status, lagging=lagging)
        if work.wrote:
            return WRITTEN_PAUSE if pause is None else min(pause, WRITTEN_PAUSE)
        work.memory.versions = versions_of(work.observed)
        return pause

    async def _act(self, work: Work, servers: Servers, plan: Plan) -> errors.OperatorError | None:
        """Write and tell; what cannot be done now is given back, to be reported before it is tried again."""
        writer = Writer(work, self._kube, self._observer, self._metrics)
        work.memory.credentials = work.observed.credentials
        try:
            await writer.write(plan)
            await servers.tell(plan)
        except (errors.RetryLater, errors.Stalled) as error:
            return error
        finally:
            await self._announce(work.observed.policy, writer.notices)
        work.memory.credentials = None
        return None

    async def _say(self, observed: Observed, plan: Plan, failure: errors.OperatorError | None = None) -> Json:
        """Write status where it differs, then the Events of what turned. Returns the status."""
        before, after = observed.status, report(observed, plan, failure)
        if after != before:
            await self._kube.replace_status({**observed.policy, "status": after})
            self._metrics.wrote(CACHE_POLICY.name, "status")
            await self._announce(observed.policy, transitions(before, after))
        return after

    async def _announce(self, policy: Json, notices: Iterable[Notice]) -> None:
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

    async def _forget(self, key: Key) -> None:
        await self._watch.forget(key)
        if self._memories.pop(key, None) is not None:
            log.info("gone; its objects follow it by their owner reference")
        self._metrics.forget(key)
        self._metrics.policies.set(len(self._memories))


def next_look(observed: Observed, plan: Plan, status: Json, *, lagging: bool) -> float | None:
    """Seconds until the next look; None where an event, the Redis loop or the resync will tell."""
    pauses = _pauses(observed, plan, status["conditions"], lagging=lagging)
    return min((pause for pause in pauses if pause is not None), default=None)


def _pauses(
    observed: Observed, plan: Plan, conditions: list[Json], *, lagging: bool
) -> Iterable[float | None]:
    if isinstance(plan.blocked, errors.Stalled):
        return [CONFLICT_PAUSE if plan.blocked.reason == "NameConflict" else None]
    if isinstance(plan.blocked, errors.RetryLater):
        return [plan.blocked.after]
    waiting = lagging and status_of(conditions, ConditionType.ENFORCED) is not Status.FALSE
    return [
        PATIENCE_SECONDS if waiting else None,
        ROTATING_PAUSE if plan.rotating else None,
        HELD_PAUSE if any(server.held for server in plan.servers.values()) else None,
        SELECTOR_PAUSE if plan.spec is not None and plan.spec.core.pod_selector is not None else None,
        _until_ready(observed, conditions),
    ]


def _until_ready(observed: Observed, conditions: list[Json]) -> float | None:
    if status_of(conditions, ConditionType.STALLED) is Status.TRUE:
        return None
    for item in conditions:
        if item["type"] == ConditionType.READY and item["status"] != Status.TRUE:
            if item["reason"] == "Hibernated":
                return None
            since = observed.now - datetime.fromisoformat(item["lastTransitionTime"])
            return STARTING_PAUSE if since.total_seconds() < STARTING_SECONDS else BROKEN_PAUSE
    return None
