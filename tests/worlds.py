"""A small world for decisions: a CachePolicy, what the API server would store of our objects, pods, Redis servers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cachepolicy import names
from cachepolicy.acknowledgement import Acknowledgement, Member
from cachepolicy.names import Role
from cachepolicy_operator.decide import decide
from cachepolicy_operator.observed import Json, Observed, id_of
from cachepolicy_operator.plan import Plan
from cachepolicy_operator.redis_look import Look
from cachepolicy_operator.report import report
from cachepolicy_operator.resources import Credentials
from cachepolicy_operator.resources.acl import password_hashes

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
IMAGE = "docker.io/library/redis:8.2"
UID = "11111111-aaaa-bbbb-cccc-222222222222"
CREDENTIALS = Credentials("operator-word", "core-word", "hmac-word", "admin-word", "gen1")
REVISION = "rev-2"

SPEC: dict[str, Any] = {
    "redis": {"managed": {"state": {"resources": {"limits": {"memory": "128Mi"}}}}},
    "sessions": {},
    "responseCache": {},
}


def policy(spec: Mapping[str, Any] = SPEC, *, generation: int = 1, status: Json | None = None) -> Json:
    """A CachePolicy as the API server gives it."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {
            "name": "core",
            "namespace": "ns",
            "uid": UID,
            "generation": generation,
            "resourceVersion": "1",
        },
        "spec": copy.deepcopy(dict(spec)),
        **({"status": status} if status else {}),
    }


def nothing_yet(spec: Mapping[str, Any] = SPEC) -> Observed:
    """A policy that was just created."""
    return Observed(
        policy=policy(spec),
        default_image=IMAGE,
        now=NOW,
        credentials=CREDENTIALS,
        operator_namespace="ops",
    )


def at_rest(spec: Mapping[str, Any] = SPEC) -> Observed:
    """A policy that was carried out: everything stored, pods ready, servers as they should be, document published."""
    world = stored(nothing_yet(spec))
    plan = decide(world)
    assert plan.spec is not None
    for role in plan.spec.roles:
        world = with_server(world, role, pod=redis_pod(world, role), seen=healthy_look(world, role))
    return world


def stored(world: Observed, plan: Plan | None = None) -> Observed:
    """``world`` after the writes of its plan."""
    plan = plan or decide(world)
    objects = {**world.objects}
    for write in plan.writes:
        objects[id_of(write.obj)] = as_stored(write.obj)
    for removal in plan.removals:
        objects.pop((removal.kind, removal.name), None)
    return replace(world, objects=objects)


def as_stored(obj: Json) -> Json:
    """An applied object with our entry in managedFields, and a finished rollout where it is a StatefulSet."""
    live = copy.deepcopy(obj)
    fields = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
    fields["metadata"] = {
        key: value for key, value in obj["metadata"].items() if key not in ("name", "namespace")
    }
    entry = {"manager": names.FIELD_MANAGER, "operation": "Apply", "fieldsV1": _owned(fields)}
    live["metadata"] |= {
        "uid": f"uid-of-{obj['kind']}-{obj['metadata']['name']}",
        "resourceVersion": "7",
        "generation": 1,
        "managedFields": [entry],
    }
    if obj["kind"] == "StatefulSet":
        pods = obj["spec"]["replicas"]
        live["status"] = {
            "observedGeneration": 1,
            "replicas": pods,
            "readyReplicas": pods,
            "updatedReplicas": pods,
            "availableReplicas": pods,
            "currentRevision": REVISION,
            "updateRevision": REVISION,
        }
    return live


def redis_pod(world: Observed, role: Role, *, ready: bool = True) -> Json:
    """The pod of a server, made from the stored StatefulSet."""
    statefulset = world.objects["StatefulSet", names.server(world.name, role)]
    template = copy.deepcopy(statefulset["spec"]["template"])
    name = f"{names.server(world.name, role)}-0"
    template["metadata"] |= {"name": name, "namespace": world.namespace, "uid": f"uid-of-{name}"}
    template["metadata"]["resourceVersion"] = "8"
    template["metadata"]["labels"] |= {"controller-revision-hash": REVISION}
    template["status"] = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if ready else "False"},
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", **template}


def waiting(pod: Json, reason: str, message: str = "", *, revision: str = REVISION) -> Json:
    """``pod`` with its container waiting for ``reason``, of another revision where one is given."""
    changed = copy.deepcopy(pod)
    changed["metadata"]["labels"]["controller-revision-hash"] = revision
    changed["status"]["conditions"][1]["status"] = "False"
    image = changed["spec"]["containers"][0]["image"]
    changed["status"]["containerStatuses"] = [
        {"name": "redis", "image": image, "state": {"waiting": {"reason": reason, "message": message}}}
    ]
    return changed


def healthy_look(world: Observed, role: Role, **changes: str) -> Look:
    """A server that has every directive of ``own``, the right users and the document; ``changes`` override values."""
    plan = decide(world)
    assert plan.spec is not None
    assert plan.document is not None
    from cachepolicy_operator.resources import memory
    from cachepolicy_operator.resources.redis_conf import own_directives

    own = own_directives(plan.spec, role, memory.maxmemory(plan.spec, role))
    users = {user: hashes or frozenset({"nopass"}) for user, hashes in password_hashes(CREDENTIALS).items()}
    control = role is plan.spec.control_role
    return Look(
        run_id=f"run-{role}",
        version="redis 7.0.15",
        used_memory=2_000_000,
        directives={**own, **{key.replace("_", "-"): value for key, value in changes.items()}},
        users=users,
        document=plan.document.to_json().encode() if control else None,
    )


def with_server(world: Observed, role: Role, **changes: Any) -> Observed:
    """``world`` with one server's view changed."""
    view = replace(world.server(role), **changes)
    return replace(world, servers={**world.servers, role: view})


def with_spec(world: Observed, spec: Mapping[str, Any]) -> Observed:
    """``world`` after somebody applied another spec."""
    changed = policy(spec, generation=world.generation + 1, status=world.policy.get("status"))
    return replace(world, policy=changed)


def with_live(world: Observed, kind: str, name: str, **changes: Any) -> Observed:
    """``world`` with top-level fields of one stored object replaced."""
    live = {**copy.deepcopy(world.objects[kind, name]), **changes}
    return replace(world, objects={**world.objects, (kind, name): live})


def core_pod(name: str, phase: str = "Running") -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "resourceVersion": "3"},
        "status": {"phase": phase},
    }


def acknowledged(
    pod: str, plan: Plan, *, pid: int = 1, revision: str | None = None, **changes: Any
) -> tuple[Member, Acknowledgement]:
    """What a process of ``pod`` reports that enforces everything, but for ``changes``."""
    assert plan.document is not None
    said = Acknowledgement(
        revision=plan.document.revision if revision is None else revision,
        sequence=plan.document.sequence,
        contract="1.0",
        enforces=plan.document.sections,
    )
    return Member(pod, pid, "n"), replace(said, **changes)


def with_status(world: Observed) -> Observed:
    """``world`` with its own report stored."""
    return replace(world, policy={**world.policy, "status": report(world, decide(world))})


def with_core(world: Observed, *reports: tuple[Member, Acknowledgement], pods: int = 2) -> Observed:
    """``world`` with running pods of Core and what their processes report."""
    look = replace(healthy_look(world, Role.STATE), acknowledgements=reports)
    world = with_server(world, Role.STATE, seen=look)
    return replace(world, core_pods=tuple(core_pod(f"core-{number}") for number in range(pods)))


def all_enforce(plan: Plan, pods: int = 2) -> list[tuple[Member, Acknowledgement]]:
    """What ``pods`` pods with one process each report that all enforce everything."""
    return [acknowledged(f"core-{number}", plan) for number in range(pods)]


def _owned(value: Any) -> Any:
    """`managedFields` in which every list is one leaf."""
    if isinstance(value, Mapping) and value:
        return {f"f:{key}": _owned(item) for key, item in value.items()}
    return {}
