"""GitOps tools see a CachePolicy as it is: Argo CD through the Lua that is shipped, Flux through kstatus and CEL.

The objects are the operator's own reports on small worlds. The cluster suite proves that their statuses occur
(``tests/cluster/test_lifecycle.py``, ``test_changes.py``, ``test_repair.py``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError
from lupa.lua51 import LuaRuntime  # Argo CD has Lua 5.1; two versions in one process crash
from tests.policies import with_value
from tests.worlds import (
    SPEC,
    acknowledged,
    all_enforce,
    at_rest,
    healthy_look,
    nothing_yet,
    redis_pod,
    waiting,
    with_core,
    with_live,
    with_server,
    with_spec,
)

from cachepolicy import names, status
from cachepolicy.names import Role
from cachepolicy_operator import errors
from cachepolicy_operator.decide import decide
from cachepolicy_operator.liveconfig import Attempt, Outcome
from cachepolicy_operator.observed import Json, Observed
from cachepolicy_operator.redis_look import Down, DownReason
from cachepolicy_operator.report import PATIENCE_SECONDS, report

MANIFESTS = Path(__file__).parents[2] / "manifests" / "gitops"
ARGOCD_KEY = f"resource.customizations.health.{names.GROUP}_{names.KIND}"

# ------------------------------------------------------------------------------------------- every state


def seen(world: Observed, failure: errors.OperatorError | None = None) -> Json:
    """The object as a tool reads it from the API server."""
    return {**world.policy, "status": report(world, decide(world), failure)}


def enforced() -> Observed:
    world = at_rest()
    return with_core(world, *all_enforce(decide(world)))


def lagging(seconds: float, **changes: Any) -> Observed:
    world = at_rest()
    plan = decide(world)
    reports = [*all_enforce(plan, 1), acknowledged("core-1", plan, **changes)]
    return replace(with_core(world, *reports), lagging_seconds=seconds)


def image_missing() -> Observed:
    world = at_rest()
    return with_server(
        world, Role.STATE, pod=waiting(redis_pod(world, Role.STATE), "ErrImagePull"), seen=None
    )


def restarting() -> Observed:
    spec = with_value("redis.managed.state.config", {"databases": "4"}, SPEC)
    attempts = {("databases", "4"): Attempt(Outcome.IMMUTABLE, reason="can't set immutable config")}
    look = healthy_look(at_rest(), Role.STATE, databases="16")
    return with_server(with_spec(at_rest(), spec), Role.STATE, seen=look, attempts=attempts)


def refused_directive() -> Observed:
    spec = with_value("redis.managed.state.config", {"hz": "lots"}, SPEC)
    attempts = {("hz", "lots"): Attempt(Outcome.REJECTED, reason="not an integer")}
    look = healthy_look(at_rest(), Role.STATE, hz="10")
    return with_server(with_spec(at_rest(), spec), Role.STATE, seen=look, attempts=attempts)


def foreign_object() -> Observed:
    world = at_rest()
    live = copy.deepcopy(world.objects["Service", "core-state"])
    for key in ("ownerReferences", "labels"):
        live["metadata"].pop(key, None)
    return with_live(world, "Service", "core-state", metadata=live["metadata"])


def stale() -> Json:
    changed = seen(at_rest())
    changed["metadata"]["generation"] += 1
    return changed


def being_deleted() -> Json:
    found = seen(at_rest())
    found["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    return found


#: What it is → how it is made, health in Argo CD, a part of the message there, kstatus.
STATES: Mapping[str, tuple[Callable[[], Json], str, str, str]] = {
    "new, without a status": (lambda: nothing_yet().policy, "Progressing", "has not looked", "Current"),
    "starting": (lambda: seen(nothing_yet()), "Progressing", "Starting", "InProgress"),
    "ready before Core exists": (lambda: seen(at_rest()), "Healthy", "NoReplicas", "Current"),
    "enforced": (lambda: seen(enforced()), "Healthy", "every pod of Core", "Current"),
    "waiting for a pod of Core": (
        lambda: seen(lagging(PATIENCE_SECONDS, revision="old")),
        "Healthy",
        "Waiting",
        "Current",
    ),
    "a runtime that is too old": (
        lambda: seen(lagging(PATIENCE_SECONDS, refused="requires x", too_old=True)),
        "Healthy",
        "RuntimeTooOld",
        "Current",
    ),
    "a spec that cannot be": (
        lambda: seen(with_spec(at_rest(), {**SPEC, "sesions": {}})),
        "Degraded",
        "spec.sesions",
        "Failed",
    ),
    "a name that somebody else has": (
        lambda: seen(foreign_object()),
        "Degraded",
        "NameConflict: Service core-state",
        "Failed",
    ),
    "a directive that Redis refused": (
        lambda: seen(refused_directive()),
        "Degraded",
        "not an integer",
        "Failed",
    ),
    "Redis hangs": (
        lambda: seen(with_server(at_rest(), Role.CACHE, seen=Down(DownReason.NO_ANSWER, "no answer"))),
        "Degraded",
        "NoAnswer",
        "InProgress",
    ),
    "an image that is not there": (
        lambda: seen(image_missing()),
        "Degraded",
        "ImagePullFailed",
        "InProgress",
    ),
    "a right that is missing": (
        lambda: seen(nothing_yet(), errors.Forbidden("apply Service ns/x: exceeded quota")),
        "Degraded",
        "exceeded quota",
        "InProgress",
    ),
    "paused": (
        lambda: seen(with_spec(at_rest(), {**SPEC, "paused": True})),
        "Suspended",
        "spec.paused",
        "Current",
    ),
    "a restart under way": (lambda: seen(restarting()), "Progressing", "databases", "InProgress"),
    "a change that was not looked at yet": (stale, "Progressing", "newest change", "InProgress"),
    "being deleted": (being_deleted, "Progressing", "deleted", "Terminating"),
}


@pytest.fixture(params=STATES, ids=lambda name: str(name).replace(" ", "-"))
def state(request: pytest.FixtureRequest) -> tuple[Json, str, str, str]:
    make, health, words, kstatus_word = STATES[request.param]
    return make(), health, words, kstatus_word


# ------------------------------------------------------------------------------------------------ Argo CD


def argocd_health(obj: Json) -> dict[str, str]:
    """What Argo CD does with the script: ``obj`` is a global, the chunk returns ``status`` and ``message``."""
    script = yaml.safe_load((MANIFESTS / "argocd" / "argocd-cm.yaml").read_text())["data"][ARGOCD_KEY]
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = _to_lua(lua, obj)
    result = lua.execute(script)
    return {str(key): str(value) for key, value in result.items()}


def _to_lua(lua: LuaRuntime, value: Any) -> Any:
    if isinstance(value, Mapping):
        return lua.table_from({key: _to_lua(lua, item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return lua.table_from([_to_lua(lua, item) for item in value])
    return value


def test_argo_cd_shows_each_state_with_a_message_that_helps(state: tuple[Json, str, str, str]) -> None:
    obj, health, words, _ = state
    found = argocd_health(obj)
    assert (found["status"], words in found["message"]) == (health, True), found


def test_a_sync_wave_goes_on_before_core_exists() -> None:
    """Core comes in a later wave: were the policy not healthy without it, both would wait for ever."""
    assert argocd_health(seen(at_rest()))["status"] == "Healthy"


def test_the_sample_application_applies_on_the_server_side() -> None:
    """Client-side apply drops a misspelt field without a word."""
    application = yaml.safe_load((MANIFESTS / "argocd" / "application.yaml").read_text())
    assert "ServerSideApply=true" in application["spec"]["syncPolicy"]["syncOptions"]


# --------------------------------------------------------------------------------------------------- Flux


def kstatus(obj: Json) -> str:
    """The generic rules of kstatus, as published.

    Source: sigs.k8s.io/cli-utils, pkg/kstatus (README and status/generic.go): deletion, observedGeneration,
    Reconciling, Stalled, then Ready; an object that says nothing of itself is current.
    """
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    found = obj.get("status") or {}
    if "observedGeneration" in found and found["observedGeneration"] != obj["metadata"]["generation"]:
        return "InProgress"
    said = {item["type"]: item["status"] for item in found.get("conditions", ())}
    if said.get(status.RECONCILING) == "True":
        return "InProgress"
    if said.get(status.STALLED) == "True":
        return "Failed"
    return "Current" if said.get(status.READY, "True") == "True" else "InProgress"


def test_kstatus_finds_each_state(state: tuple[Json, str, str, str]) -> None:
    obj, _, _, expected = state
    assert kstatus(obj) == expected


def flux_kustomizations() -> dict[str, Json]:
    documents = yaml.safe_load_all((MANIFESTS / "flux" / "kustomizations.yaml").read_text())
    return {document["metadata"]["name"]: document for document in documents}


def expressions(kustomization: str) -> dict[str, str]:
    (found,) = flux_kustomizations()[kustomization]["spec"]["healthCheckExprs"]
    assert (found["apiVersion"], found["kind"]) == (names.API_VERSION, names.KIND)
    return {key: value for key, value in found.items() if key not in ("apiVersion", "kind")}


def true_of(expression: str, obj: Json) -> bool | None:
    """Whether a CEL expression holds for ``obj``; None where it cannot be evaluated."""
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))
    parts: dict[str, Any] = {
        key: json_to_cel(obj[key]) for key in ("metadata", "spec", "status") if key in obj
    }
    try:
        return bool(program.evaluate(parts))
    except CELEvalError:
        return None


def test_fluxs_expressions_agree_with_kstatus_on_each_state(state: tuple[Json, str, str, str]) -> None:
    """Flux asks ``inProgress``, then ``failed``, then ``current``; it looks at observedGeneration by itself."""
    obj, _, _, expected = state
    wanted = expressions("masterclaw-policies")
    answers = {key: true_of(wanted[key], obj) for key in ("inProgress", "failed", "current")}
    if "status" not in obj:
        assert answers["current"] is None, "not current before the operator has said so"
    elif expected in ("InProgress", "Terminating"):
        assert answers["inProgress"] or not answers["current"] or is_stale(obj)
    else:
        assert answers == {
            "inProgress": False,
            "failed": expected == "Failed",
            "current": expected == "Current",
        }


def is_stale(obj: Json) -> bool:
    return bool(obj["status"]["observedGeneration"] != obj["metadata"]["generation"])


def test_flux_waits_for_core_only_where_core_is_applied() -> None:
    policies, core = expressions("masterclaw-policies"), expressions("masterclaw-core")
    before_core, after = seen(at_rest()), seen(enforced())
    assert true_of(policies["current"], before_core)
    assert not true_of(core["current"], before_core)
    assert true_of(core["current"], after)
    assert flux_kustomizations()["masterclaw-core"]["spec"]["dependsOn"] == [{"name": "masterclaw-policies"}]
