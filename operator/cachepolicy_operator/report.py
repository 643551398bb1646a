"""What is said about a CachePolicy: conditions, the rest of status, and the Events of transitions. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cachepolicy import names
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy.status import (
    Binding,
    CachePolicyStatus,
    ConfigStatus,
    CoreStatus,
    PendingRestart,
    RedisStatus,
    RejectedDirective,
    ServerStatus,
)
from cachepolicy_operator import conditions, errors, rollout
from cachepolicy_operator.conditions import Condition, ConditionType, Status
from cachepolicy_operator.enforcement import Enforcement, core_selector, counting_pods, enforcement
from cachepolicy_operator.foresight import foresee
from cachepolicy_operator.observed import Json, Observed
from cachepolicy_operator.plan import Notice, Plan
from cachepolicy_operator.redis_look import Down
from cachepolicy_operator.resources import server_host
from cachepolicy_operator.resources.redis_conf import has_disk
from cachepolicy_operator.resources.statefulset import replicas

#: Two looks at the usual pace: a change that is enforced sooner never shows as Waiting.
PATIENCE_SECONDS: Final = 3.0
_MOST_NAMED: Final = 10

# What the other conditions say shows in Ready.
_TOLD: Final = frozenset({ConditionType.READY, ConditionType.ENFORCED, ConditionType.STALLED})
# Not ready because somebody asked for just that: no warning.
_MEANT: Final = frozenset({"RestartPending", "Paused", "Hibernated"})
# Reasons of a beginning or of a passing state: no Event says that a new Redis is not ready yet.
_PASSING: Final = frozenset(
    {"Starting", "Progressing", "Loading", "WaitingForRedis", "WaitingForGC", "NotWritten"}
)


def enforcement_of(observed: Observed, plan: Plan) -> Enforcement | None:
    """What Core's processes report; None while the server that they report to cannot be asked."""
    if plan.spec is None or plan.document is None:
        return None
    look = observed.server(plan.spec.control_role).look
    if look is None:
        return None
    return enforcement(counting_pods(observed.core_pods), look.acknowledgements, plan.document)


def report(observed: Observed, plan: Plan, failure: errors.OperatorError | None = None) -> Json:
    """The whole new status. ``failure``: what went wrong while the plan was carried out."""
    trouble = plan.blocked or failure
    found = list(_conditions(observed, plan, trouble))
    merged = conditions.merge(
        observed.status.get("conditions") or [], found, generation=observed.generation, now=observed.now
    )
    if plan.spec is None or plan.document is None:
        body = {key: value for key, value in observed.status.items() if key != "conditions"}
    else:
        body = _body(observed, plan, plan.spec)
    return {**body, "observedGeneration": observed.generation, "conditions": merged}


def transitions(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Notice, ...]:
    """Events for conditions that turned: to true as Normal, to a reason that a person should see as Warning."""
    turned = conditions.flipped(before.get("conditions") or [], after.get("conditions") or [])
    # What stalls also makes Ready false, in the same words: told once.
    return tuple(dict.fromkeys(notice for item in turned if (notice := _turned(item)) is not None))


# --------------------------------------------------------------------------------------------- conditions


def _conditions(observed: Observed, plan: Plan, trouble: errors.OperatorError | None) -> Iterator[Condition]:
    if plan.spec is None or plan.document is None:
        assert trouble is not None  # noqa: S101 - a plan without a document is blocked
        yield Condition.false(ConditionType.READY, _reason(trouble), str(trouble))
        yield Condition.true(ConditionType.STALLED, _reason(trouble), str(trouble))
        return
    redis = _redis_available(observed, plan.spec)
    config = _config_applied(observed, plan)
    written = _document_written(observed, plan)
    ready = _ready(plan, trouble, redis, config, written)
    yield ready
    yield redis
    yield config
    yield _enforced(observed, plan)
    yield from _progress(plan, trouble, ready, config)


def _ready(
    plan: Plan, trouble: errors.OperatorError | None, redis: Condition, config: Condition, written: Condition
) -> Condition:
    if trouble is not None and (plan.blocked is not None or isinstance(trouble, errors.Stalled)):
        return Condition.false(ConditionType.READY, _reason(trouble), str(trouble))
    for part in (redis, config, written):
        if part.status is not Status.TRUE and trouble is not None:
            # What could not be written comes first: a pod that does not exist yet is only its consequence.
            return Condition.false(ConditionType.READY, _reason(trouble), str(trouble))
        if part.status is not Status.TRUE:
            return Condition.false(ConditionType.READY, part.reason, part.message)
    return Condition.true(
        ConditionType.READY,
        "Ready",
        "Redis is available, its configuration is applied and the policy document is written",
    )


def _progress(
    plan: Plan, trouble: errors.OperatorError | None, ready: Condition, config: Condition
) -> Iterator[Condition]:
    """Reconciling or Stalled, while one of them is true (kstatus)."""
    paused = plan.spec is not None and plan.spec.paused
    if isinstance(trouble, errors.Stalled):
        yield Condition.true(ConditionType.STALLED, _reason(trouble), str(trouble))
    elif config.reason == "DirectiveRejected":
        yield Condition.true(ConditionType.STALLED, config.reason, config.message)
    elif trouble is not None:
        yield Condition.true(ConditionType.RECONCILING, _reason(trouble), str(trouble))
    elif ready.status is not Status.TRUE and not paused and ready.reason != "Hibernated":
        yield Condition.true(ConditionType.RECONCILING, ready.reason, ready.message)


def _redis_available(observed: Observed, spec: CachePolicySpec) -> Condition:
    kind = ConditionType.REDIS_AVAILABLE
    if spec.redis.managed.hibernated:
        return Condition.false(kind, "Hibernated", _asleep(spec))
    for role in spec.roles:
        view, pod_name = observed.server(role), f"{names.server(observed.name, role)}-0"
        if not rollout.ready(view.pod):
            trouble = rollout.trouble(view.pod, pod_name)
            return Condition.false(kind, trouble.reason, f"{role}: {trouble.message}")
        if isinstance(view.seen, Down):
            # While a pod is being replaced, it is no news that it does not answer.
            rolling = not rollout.rolled_out(_statefulset(observed, role))
            reason = "Starting" if rolling else str(view.seen.reason)
            return Condition.false(kind, reason, f"{role}: pod {pod_name}: {view.seen.message}")
        if view.look is None:
            return Condition.false(kind, "Loading", f"{role}: pod {pod_name}: Redis loads its data")
    servers = " and ".join(spec.roles)
    return Condition.true(
        kind, "Available", f"{servers} answer" if len(spec.roles) > 1 else f"{servers} answers"
    )


def _asleep(spec: CachePolicySpec) -> str:
    empty = " and ".join(role for role in spec.roles if not has_disk(spec, role))
    lost = f"; without storage, {empty} comes back empty" if empty else ""
    return f"spec.redis.managed.hibernated: no Redis pods run, and Core works from memory{lost}"


def _config_applied(observed: Observed, plan: Plan) -> Condition:
    kind = ConditionType.CONFIG_APPLIED
    for reason, sentences in _config_findings(observed, plan):
        if sentences:
            return Condition.false(kind, reason, "; ".join(sentences))
    return Condition.true(kind, "Applied", "every object and every directive is as the spec says")


def _config_findings(observed: Observed, plan: Plan) -> Iterator[tuple[str, list[str]]]:
    servers = plan.servers.items()
    yield (
        "DirectiveRejected",
        [
            f"{role}: {key}: {reason}{'; the last good value stays' if key in server.live.live else ''}"
            for role, server in servers
            for key, reason in sorted(server.live.rejected.items())
        ],
    )
    yield "MemoryInUse", [server.held for _, server in servers if server.held]
    if plan.spec is not None and plan.spec.paused:
        open_ = plan.changes + sum(len(wanted) for wanted in plan.directives.values())
        yield "Paused", [f"spec.paused: {open_} differences are left as they are"] if open_ else []
    yield (
        "RestartPending",
        [
            f"{role}: {', '.join(server.pending_restart)} takes effect with the restart that is under way"
            for role, server in servers
            if server.pending_restart
        ],
    )
    yield "Progressing", list(plan.waits)
    yield (
        "WaitingForRedis",
        [
            f"{role}: {', '.join(keys)} waits for a server to take it"
            for role, server in servers
            if (keys := (*server.live.waiting, *sorted(server.live.to_set)))
        ],
    )
    yield (
        "Progressing",
        [f"{write.obj['kind']} {write.obj['metadata']['name']} differs" for write in plan.writes],
    )
    yield (
        "Progressing",
        [
            f"{role}: StatefulSet {names.server(observed.name, role)} rolls its pod"
            for role, _ in servers
            if not rollout.rolled_out(_statefulset(observed, role))
        ],
    )


def _statefulset(observed: Observed, role: Role) -> Json | None:
    return observed.objects.get(("StatefulSet", names.server(observed.name, role)))


def _document_written(observed: Observed, plan: Plan) -> Condition:
    name = names.core_config_map(observed.name)
    if ("ConfigMap", name) in observed.objects and all(
        (write.obj["kind"], write.obj["metadata"]["name"]) != ("ConfigMap", name) for write in plan.writes
    ):
        return Condition.true(ConditionType.READY, "Written")
    return Condition.false(ConditionType.READY, "NotWritten", f"ConfigMap {name} is not written yet")


def _enforced(observed: Observed, plan: Plan) -> Condition:
    kind = ConditionType.ENFORCED
    found = enforcement_of(observed, plan)
    if plan.spec is not None and not counting_pods(observed.core_pods):
        return Condition.unknown(
            kind, "NoReplicas", f"no running pod is labelled {core_selector(observed.name, plan.spec)}"
        )
    if found is None:
        return Condition.unknown(kind, "RedisUnavailable", "the server that Core reports to cannot be asked")
    if not found.lagging:
        return Condition.true(kind, "Enforced", "every pod of Core enforces the policy document")
    return _lagging(observed, found)


def _lagging(observed: Observed, found: Enforcement) -> Condition:
    kind, said = ConditionType.ENFORCED, _lagging_sentence(found.lagging)
    if found.too_old:
        return Condition.false(kind, "RuntimeTooOld", said)
    before = conditions.status_of(observed.status.get("conditions") or [], kind)
    if observed.lagging_seconds >= PATIENCE_SECONDS or before is Status.FALSE:
        return Condition.false(kind, "Waiting", said)
    if before is Status.TRUE:
        return Condition.true(kind, "Enforced", "every pod of Core enforced the policy document until now")
    return Condition.unknown(kind, "Waiting", said)


def _lagging_sentence(lagging: Mapping[str, str]) -> str:
    named = [f"pod {pod} {why}" for pod, why in sorted(lagging.items())[:_MOST_NAMED]]
    rest = len(lagging) - len(named)
    return "; ".join(named) + (f"; and {rest} more" if rest else "")


def _reason(trouble: errors.OperatorError) -> str:
    return trouble.reason if isinstance(trouble, (errors.RetryLater, errors.Stalled)) else "Retrying"


def _turned(item: Mapping[str, Any]) -> Notice | None:
    kind, status, reason = ConditionType(item["type"]), item["status"], item["reason"]
    note = item["message"] or f"{kind} is {status}"
    if kind not in _TOLD or status == Status.UNKNOWN:
        return None
    if kind is ConditionType.STALLED:
        return Notice(reason, "Reconcile", note, warning=True)
    if status == Status.TRUE:
        return Notice(str(kind), "Reconcile", note)
    return None if reason in _PASSING else Notice(reason, "Reconcile", note, warning=reason not in _MEANT)


# ------------------------------------------------------------------------------------------ rest of status


def _body(observed: Observed, plan: Plan, spec: CachePolicySpec) -> Json:
    servers = {role: _server_status(observed, role, replicas(spec)) for role in spec.roles}
    status = CachePolicyStatus(
        sections=",".join(spec.sections),
        redis=RedisStatus(state=servers.get(Role.STATE), cache=servers.get(Role.CACHE)),
        config=_config_status(observed, plan),
        core=_core_status(observed, plan),
        binding=Binding(name=names.binding_secret(observed.name)),
        plan=foresee(plan) if spec.paused else (),
    )
    return _without_empty(
        status.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"conditions"})
    )


def _server_status(observed: Observed, role: Role, wanted: int) -> ServerStatus:
    view = observed.server(role)
    ready = int(rollout.ready(view.pod))
    return ServerStatus(
        endpoint=f"{server_host(observed.namespace, observed.name, role)}:{names.REDIS_PORT}",
        topology="Standalone",
        replicas=wanted,
        ready_replicas=ready,
        ready=f"{ready}/{wanted}",
        version=view.look.version if view.look else None,
        maxmemory=str(view.look.maxmemory) if view.look else None,
    )


def _config_status(observed: Observed, plan: Plan) -> ConfigStatus:
    rejected: Sequence[RejectedDirective] = [
        RejectedDirective(instance=names.server(observed.name, role), key=key, reason=reason)
        for role, server in plan.servers.items()
        for key, reason in sorted(server.live.rejected.items())
    ]
    pending = [
        PendingRestart(instance=names.server(observed.name, role), key=key)
        for role, server in plan.servers.items()
        for key in server.pending_restart
    ]
    return ConfigStatus(pending_restart=tuple(pending), rejected=tuple(rejected))


def _core_status(observed: Observed, plan: Plan) -> CoreStatus:
    found = enforcement_of(observed, plan)
    pods = len(counting_pods(observed.core_pods))
    enforced = found.enforced if found is not None else 0
    return CoreStatus(
        config_map=names.core_config_map(observed.name),
        secret=names.core_secret(observed.name),
        revision=plan.document.revision if plan.document is not None else None,
        replicas=pods,
        enforced_replicas=enforced,
        enforced=f"{enforced}/{pods}",
        processes=found.processes if found is not None else None,
        rotating=plan.rotating or None,
        lagging=tuple(sorted(found.lagging))[:_MOST_NAMED] if found is not None else (),
    )


def _without_empty(body: Json) -> Json:
    """Without empty lists and objects: nothing to say is not said."""
    cleaned = {key: _without_empty(item) if isinstance(item, dict) else item for key, item in body.items()}
    return {key: item for key, item in cleaned.items() if item not in ({}, [])}
