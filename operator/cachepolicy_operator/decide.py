"""What follows from one moment of one CachePolicy: a pure function from Observed to Plan.

The plan holds differences only: at rest it is empty but for the status that is there already. Redis is asked first
(``directives``), because its answers decide what may be written into its files; ``reconcile`` then decides again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from cachepolicy import names
from cachepolicy.document import DocumentError, PolicyDocument, build_document, read_document, revision_of
from cachepolicy.names import Role
from cachepolicy.quantities import Quantity
from cachepolicy.servers import Resources, StateServer
from cachepolicy.spec import CachePolicySpec, name_refusal, parse_spec
from cachepolicy_operator import compare, errors, liveconfig, notices, rollout, rotation, trials
from cachepolicy_operator.liveconfig import LiveInputs, Running
from cachepolicy_operator.observed import Json, ObjectId, Observed, id_of
from cachepolicy_operator.ownership import Owner, controlled_by, owner_of
from cachepolicy_operator.plan import Growth, Notice, Plan, Removal, ServerPlan, WaitingForGC, Write
from cachepolicy_operator.resources import (
    RenderInputs,
    ServerConfig,
    build_objects,
    endpoint_url,
    memory,
    read_live,
    read_restart,
)
from cachepolicy_operator.resources.acl import password_hashes, setuser_arguments
from cachepolicy_operator.resources.redis_conf import own_directives
from cachepolicy_operator.resources.statefulset import claim_name

_PRUNED_KINDS = ("StatefulSet", "Service", "ConfigMap", "NetworkPolicy", "Pod")


def read_policy(policy: Mapping[str, Any]) -> CachePolicySpec:
    """The spec of a CachePolicy object. Raises Stalled with the path of the first field that is wrong."""
    refusal = name_refusal(str(policy["metadata"]["name"]))
    if refusal is not None:
        raise errors.Stalled(refusal, reason="InvalidName", field="metadata.name")
    parsed = parse_spec(policy.get("spec") or {})
    if isinstance(parsed, CachePolicySpec):
        return parsed
    raise errors.Stalled("; ".join(map(str, parsed)), reason="InvalidSpec", field=parsed[0].path)


def decide(observed: Observed) -> Plan:
    """The plan for one moment; never raises for what a person can write into a CachePolicy."""
    try:
        spec = read_policy(observed.policy)
    except errors.Stalled as stalled:
        return Plan(None, blocked=stalled)
    try:
        return _plan(observed, spec)
    except errors.Stalled as stalled:
        return Plan(spec, blocked=stalled, document=published(observed))


def published(observed: Observed) -> PolicyDocument | None:
    """The newest document that is known to be out there, the base of the next sequence number.

    One that somebody edited counts with an empty revision, so that its repair gets a higher sequence.
    """
    found = _document_in(observed.objects.get(("ConfigMap", names.core_config_map(observed.name))))
    known = [document for document in (found, observed.remembered) if document is not None]
    return max(known, key=lambda document: document.sequence, default=None)


def _plan(observed: Observed, spec: CachePolicySpec) -> Plan:
    turned = rotation.turn(observed, spec)
    observed = replace(observed, credentials=turned.credentials)
    servers = {role: _server(observed, spec, role) for role in spec.roles}
    document = build_document(
        namespace=observed.namespace,
        name=observed.name,
        uid=observed.uid,
        spec=spec,
        endpoints={role: endpoint_url(observed.namespace, observed.name, role) for role in spec.roles},
        previous=published(observed),
        now_ms=int(observed.now.timestamp() * 1000),
    )
    inputs = RenderInputs(
        namespace=observed.namespace,
        name=observed.name,
        uid=observed.uid,
        spec=_affordable(observed, spec, servers),
        default_image=observed.default_image,
        credentials=observed.credentials,
        document=document,
        operator_namespace=observed.operator_namespace,
    )
    tried = trials.trials(inputs, servers, observed.objects)
    servers = {
        role: trials.after_trial(plan, tried[role], _mounted_restart(observed, role))
        for role, plan in servers.items()
    }
    configs = {
        role: ServerConfig(plan.live.live, plan.live.restart, candidate=tried[role].candidate)
        for role, plan in servers.items()
    }
    wanted = build_objects(replace(inputs, servers=configs))
    plan = Plan(spec, document, servers=servers)
    blocked = _blocked(observed, wanted)
    if blocked is not None:
        return replace(plan, blocked=blocked)
    growths, waits = _growth(observed, spec)
    remakes = tuple(_remakes(observed, wanted))
    remade = {(removal.kind, removal.name) for removal in remakes}
    return replace(
        plan,
        growths=growths,
        writes=tuple(_writes(observed, wanted, remade)),
        removals=(*remakes, *_prune(observed, wanted), *_stuck_pods(observed, spec)),
        publish=_must_publish(observed, spec, document),
        waits=(*waits, *_trial_waits(tried), *_going(observed, wanted)),
        rotating=turned.waiting,
        notices=(
            *notices.rotation(turned),
            *notices.credentials(observed),
            *notices.closing(observed, spec, wanted),
        ),
    )


# ------------------------------------------------------------------------------------------------ servers


def _server(observed: Observed, spec: CachePolicySpec, role: Role) -> ServerPlan:
    view = observed.server(role)
    look = view.look
    statefulset = observed.objects.get(("StatefulSet", names.server(observed.name, role)))
    wanted_memory = memory.maxmemory(spec, role)
    running_memory = _running_memory(observed, role, wanted_memory)
    inputs = LiveInputs(
        own=own_directives(spec, role, running_memory),
        wanted=spec.server(role).config,
        live=read_live(
            observed.objects.get(("ConfigMap", names.redis_config_map(observed.name, role))), names.FILE_LIVE
        ),
        restart=_restart_directives(observed, statefulset),
        running=None if look is None else Running(look.directives, view.attempts),
    )
    plan = liveconfig.plan(inputs)
    return ServerPlan(
        inputs,
        plan,
        held=_held(spec, role, wanted_memory, running_memory, observed),
        users=_differing_users(observed, role),
    )


def _running_memory(observed: Observed, role: Role, wanted: int) -> int:
    """``maxmemory`` for the server as it runs now (rule 2)."""
    view = observed.server(role)
    if view.look is None or view.pod is None:
        return wanted
    return liveconfig.running_maxmemory(
        wanted=wanted,
        pod_allows=_allowed_by(view.pod, role, wanted),
        current=view.look.maxmemory,
        used=view.look.used_memory,
        evicts=role is Role.CACHE,
    )


def _allowed_by(pod: Json, role: Role, otherwise: int) -> int:
    limit = rollout.memory_limit(pod)
    if limit is None:
        return otherwise
    try:
        return memory.maxmemory_of(Quantity.parse(limit), role)
    except (ValueError, errors.Stalled):
        return otherwise


def _held(spec: CachePolicySpec, role: Role, wanted: int, running: int, observed: Observed) -> str | None:
    look = observed.server(role).look
    if look is None or running <= wanted:
        return None
    limit = memory.container_resources(spec, role)["limits"]["memory"]
    return (
        f"spec.redis.managed.{role}.resources.limits.memory: {limit} gives {wanted} bytes to data and "
        f"{look.used_memory} are in use, so the memory stays as it is until they fit: writes would fail otherwise"
    )


def _affordable(
    observed: Observed, spec: CachePolicySpec, servers: Mapping[Role, ServerPlan]
) -> CachePolicySpec:
    """The spec with what cannot be had yet left as it is: memory that is in use, a claim that still grows."""
    changes: dict[str, Any] = {}
    for role in spec.roles:
        statefulset = observed.objects.get(("StatefulSet", names.server(observed.name, role)))
        if statefulset is None:
            continue
        server = spec.server(role)
        limit = rollout.memory_limit(statefulset)
        if servers[role].held is not None and limit is not None:
            server = server.model_copy(update={"resources": _with_memory(server.resources, limit)})
        if isinstance(server, StateServer) and server.storage is not None:
            size = rollout.claim_size(statefulset)
            if size is not None and not _claim_has(observed, role, server.storage.size):
                storage = server.storage.model_copy(update={"size": Quantity.parse(size)})
                server = server.model_copy(update={"storage": storage})
        changes[str(role)] = server
    managed = spec.redis.managed.model_copy(update=changes)
    return spec.model_copy(update={"redis": spec.redis.model_copy(update={"managed": managed})})


def _with_memory(resources: Resources | None, limit: str) -> Resources:
    """``resources`` with this much memory requested and allowed."""
    memory_ = Quantity.parse(limit)
    given = resources or Resources(limits={"memory": memory_})
    return Resources(
        requests={**given.requests, "memory": memory_}, limits={**given.limits, "memory": memory_}
    )


def _restart_directives(observed: Observed, obj: Json | None) -> dict[str, str]:
    """What the restart ConfigMap that a pod, or a StatefulSet's template, mounts says."""
    name = rollout.mounted_config_map(obj, "restart") if obj is not None else None
    return read_restart(observed.objects.get(("ConfigMap", name))) if name else {}


def _mounted_restart(observed: Observed, role: Role) -> dict[str, str] | None:
    """What the running pod was started with; None without a pod."""
    pod = observed.server(role).pod
    return _restart_directives(observed, pod) if pod is not None else None


def _differing_users(observed: Observed, role: Role) -> dict[str, tuple[str, ...]]:
    look = observed.server(role).look
    if look is None:
        return {}
    prefix = f"{observed.namespace}/{observed.name}"
    expected = password_hashes(observed.credentials)
    return {
        user: setuser_arguments(user, prefix, observed.credentials)
        for user, hashes in expected.items()
        if look.users.get(user) != (hashes or frozenset({"nopass"}))
    }


# ------------------------------------------------------------------------------------------------ objects


def _blocked(observed: Observed, wanted: list[Json]) -> errors.OperatorError | None:
    """Why nothing may be written: an object with a name of ours that is not ours, or not yet gone."""
    for obj in wanted:
        live = observed.objects.get(id_of(obj))
        owner = Owner.OURS if live is None else owner_of(live, observed.name, observed.uid)
        what = f"{obj['kind']} {obj['metadata']['name']}"
        if owner is Owner.FOREIGN:
            return errors.Stalled(
                f"{what} exists and belongs to somebody else: delete or rename it, or give the CachePolicy another "
                "name; nothing is changed until then",
                reason="NameConflict",
                field=what,
            )
        if owner is Owner.PREVIOUS:
            return WaitingForGC(f"{what} of the deleted CachePolicy of this name is still being removed")
    return None


def _writes(observed: Observed, wanted: list[Json], remade: set[ObjectId]) -> Iterator[Write]:
    for obj in wanted:
        live = observed.objects.get(id_of(obj))
        if live is not None and (rollout.terminating(live) or id_of(obj) in remade):
            continue
        reasons = compare.difference(obj, live, names.FIELD_MANAGER)
        if reasons and not _given_up(observed, obj, live):
            yield Write(obj, tuple(reasons))


def digest(obj: Json) -> str:
    """A short name for exactly this content."""
    return hashlib.sha256(json.dumps(obj, sort_keys=True).encode()).hexdigest()[:16]


def _given_up(observed: Observed, obj: Json, live: Json | None) -> bool:
    """Whether exactly this was applied to exactly that before, and it differed all the same."""
    version = (live or {}).get("metadata", {}).get("resourceVersion", "")
    return observed.unappliable.get(id_of(obj)) == (digest(obj), version)


def _trial_waits(tried: Mapping[Role, trials.Trial]) -> Iterator[str]:
    return (f"{role}: {trial.waiting}" for role, trial in tried.items() if trial.waiting)


def _going(observed: Observed, wanted: list[Json]) -> Iterator[str]:
    for obj in wanted:
        live = observed.objects.get(id_of(obj))
        if live is not None and rollout.terminating(live):
            yield f"{obj['kind']} {obj['metadata']['name']} is being deleted and will be made anew"


def _remakes(observed: Observed, wanted: list[Json]) -> Iterator[Removal]:
    """StatefulSets with a change in a field that never changes: made anew around their running pods (rule 17)."""
    for obj in wanted:
        live = observed.objects.get(id_of(obj))
        if obj["kind"] != "StatefulSet" or live is None or rollout.terminating(live):
            continue
        field_ = rollout.fixed_difference(obj, live)
        if field_ is not None:
            name = obj["metadata"]["name"]
            note = f"StatefulSet {name} is made anew for {field_}; its pods go on running"
            notice = Notice("StatefulSetRecreated", "Recreate", note)
            yield Removal("StatefulSet", name, live["metadata"]["uid"], notice, orphan=True)


def _prune(observed: Observed, wanted: list[Json]) -> Iterator[Removal]:
    """What this CachePolicy no longer needs. Claims are never among it."""
    keep = {id_of(obj) for obj in wanted} | set(_mounted(observed))
    for (kind, name), live in observed.objects.items():
        if kind not in _PRUNED_KINDS or (kind, name) in keep or rollout.terminating(live):
            continue
        if controlled_by(live, observed.uid):
            notice = notices.pruned_server(observed, name) if kind == "StatefulSet" else None
            yield Removal(kind, name, live["metadata"]["uid"], notice)


def _mounted(observed: Observed) -> Iterator[ObjectId]:
    """Restart ConfigMaps that a pod still needs, should its container start again."""
    for view in observed.servers.values():
        name = rollout.mounted_config_map(view.pod, "restart") if view.pod is not None else None
        if name:
            yield ("ConfigMap", name)


def _stuck_pods(observed: Observed, spec: CachePolicySpec) -> Iterator[Removal]:
    for role in spec.roles:
        pod = observed.server(role).pod
        statefulset = observed.objects.get(("StatefulSet", names.server(observed.name, role)))
        if pod is not None and rollout.stuck(pod, statefulset):
            name = pod["metadata"]["name"]
            why = rollout.trouble(pod, name)
            note = f"{why.message}; the pod was deleted, because a newer revision waits behind it"
            notice = Notice("StuckPodDeleted", "DeletePod", note, warning=True)
            yield Removal("Pod", name, pod["metadata"]["uid"], notice)


def _growth(observed: Observed, spec: CachePolicySpec) -> tuple[tuple[Growth, ...], tuple[str, ...]]:
    """Claims that are smaller than the spec says, and what is waited for meanwhile (rule 18)."""
    growths, waits = [], []
    for role in spec.roles:
        server = spec.server(role)
        if not isinstance(server, StateServer) or server.storage is None:
            continue
        name = claim_name(observed.name, role)
        claim = observed.claims.get(name)
        if claim is None or rollout.terminating(claim):
            continue
        size = server.storage.size
        if Quantity.parse(claim["spec"]["resources"]["requests"]["storage"]).value < size.value:
            growths.append(Growth(name, str(size)))
        if not _claim_has(observed, role, size):
            waits.append(f"PersistentVolumeClaim {name} grows to {size}")
    return tuple(growths), tuple(waits)


def _claim_has(observed: Observed, role: Role, size: Quantity) -> bool:
    """Whether the claim has this size already; one that does not exist is made with it."""
    claim = observed.claims.get(claim_name(observed.name, role))
    if claim is None:
        return True
    capacity = ((claim.get("status") or {}).get("capacity") or {}).get("storage")
    if capacity is None:
        # Not bound yet: what counts is what was asked for.
        capacity = claim["spec"]["resources"]["requests"]["storage"]
    return Quantity.parse(capacity).value >= size.value


# ----------------------------------------------------------------------------------------------- document


def _must_publish(observed: Observed, spec: CachePolicySpec, document: PolicyDocument) -> bool:
    look = observed.server(spec.control_role).look
    return look is not None and look.document != document.to_json().encode()


def _document_in(config_map: Json | None) -> PolicyDocument | None:
    text = ((config_map or {}).get("data") or {}).get(names.FILE_POLICY)
    if not text:
        return None
    try:
        document = read_document(text.encode()).document
    except DocumentError:
        return None
    content = document.model_dump(mode="json", by_alias=True, exclude_none=True)
    return (
        document
        if revision_of(content) == document.revision
        else document.model_copy(update={"revision": ""})
    )
