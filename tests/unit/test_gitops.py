"""What Argo CD and Flux make of a CachePolicy in every state, by their own rules, from statuses of the operator's own code.

Argo CD runs the Lua of manifests/gitops/argocd with the base and table libraries alone (argo-cd, util/lua/lua.go). Flux and
`kubectl wait`-like tools use kstatus (kubernetes-sigs/cli-utils, pkg/kstatus/status), or CEL instead of it for the kinds that
have `healthCheckExprs` (fluxcd/pkg, runtime/cel).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import celpy
import celpy.adapter
import celpy.evaluation
import lupa.lua51
import pytest
import yaml
from tests.policies import with_value
from tests.worlds import (
    SPEC,
    acknowledged,
    at_rest,
    core_pod,
    healthy_look,
    nothing_yet,
    redis_pod,
    stored,
    waiting,
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

ROOT: Final = Path(__file__).parents[2]
GITOPS: Final = ROOT / "manifests" / "gitops"
HEALTH_KEY: Final = f"resource.customizations.health.{names.GROUP}_{names.KIND}"


def documents(path: str) -> list[Json]:
    return [item for item in yaml.safe_load_all((GITOPS / path).read_text()) if item]


(CONFIG_MAP,) = documents("argocd/argocd-cm.yaml")
SCRIPT: Final = str(CONFIG_MAP["data"][HEALTH_KEY])
POLICIES, CORE = documents("flux/kustomizations.yaml")

# ------------------------------------------------------------------------------------------------- the states


def policy(world: Observed, failure: errors.OperatorError | None = None) -> Json:
    """The CachePolicy of ``world`` with the status that the operator writes."""
    return {**world.policy, "status": report(world, decide(world), failure)}


def reported(world: Observed, *, lagging: bool = False, **changes: Any) -> Observed:
    """``world`` with one pod of Core whose process reports, with ``changes``."""
    said = acknowledged("core-0", decide(world), **changes)
    look = replace(healthy_look(world, Role.STATE), acknowledgements=(said,))
    world = with_server(world, Role.STATE, seen=look)
    return replace(
        world, core_pods=(core_pod("core-0"),), lagging_seconds=PATIENCE_SECONDS if lagging else 0.0
    )


def asked(directive: str, value: str, outcome: Outcome, reason: str) -> Observed:
    """A directive was asked for and Redis answered."""
    world = with_spec(at_rest(), with_value("redis.managed.state.config", {directive: value}, SPEC))
    look = healthy_look(at_rest(), Role.STATE, **{directive: "16"})
    attempts = {(directive, value): Attempt(outcome, reason=reason)}
    return with_server(world, Role.STATE, seen=look, attempts=attempts)


def with_foreign_config_map() -> Observed:
    world = with_live(at_rest(), "ConfigMap", "core-core")
    live = world.objects["ConfigMap", "core-core"]
    bare = {key: value for key, value in live["metadata"].items() if key in ("name", "namespace", "uid")}
    return with_live(world, "ConfigMap", "core-core", metadata=bare)


def not_pulled() -> Observed:
    world = at_rest()
    return with_server(
        world, Role.STATE, pod=waiting(redis_pod(world, Role.STATE), "ImagePullBackOff"), seen=None
    )


def going() -> Json:
    found = policy(at_rest())
    return found | {"metadata": found["metadata"] | {"deletionTimestamp": "2026-11-24T12:00:00Z"}}


def paused(world: Observed) -> Observed:
    return with_spec(world, {**SPEC, "paused": True})


def hibernated(world: Observed) -> Observed:
    asleep = with_spec(world, {**SPEC, "redis": {"managed": {"hibernated": True}}})
    for role in Role:
        asleep = with_server(asleep, role, pod=None, seen=None)
    return stored(asleep)


def drifted(world: Observed) -> Observed:
    return with_live(world, "ConfigMap", "core-state-config", data={"redis.conf": "port 1"})


def down(role: Role, reason: DownReason) -> Observed:
    return with_server(at_rest(), role, seen=Down(reason, "no connection"))


def unfinished(obj: Json) -> Json:
    """``obj`` after a change that the operator has not seen."""
    return obj | {"metadata": obj["metadata"] | {"generation": obj["metadata"]["generation"] + 1}}


@dataclass(frozen=True)
class State:
    """A CachePolicy, what each tool must say of it, and words that its message must hold."""

    make: Callable[[], Json]
    argo: str
    kstatus: str
    words: str = ""
    flux: str = ""


STATES: Final[Mapping[str, State]] = {
    # Flux: the expressions cannot be evaluated, so it waits; kstatus alone would go on.
    "new, without status": State(lambda: nothing_yet().policy, "Progressing", "Current", "operator", "Error"),
    "just begun": State(lambda: policy(nothing_yet()), "Progressing", "InProgress", "does not exist yet"),
    "ready, no Core": State(lambda: policy(at_rest()), "Healthy", "Current", "NoReplicas: no running pod"),
    "ready, enforced": State(lambda: policy(reported(at_rest())), "Healthy", "Current", "every pod of Core"),
    "ready, waiting": State(
        lambda: policy(reported(at_rest(), lagging=True, revision="old")),
        "Healthy",
        "Current",
        "Waiting: pod core-0 enforces revision old",
    ),
    "ready, RuntimeTooOld": State(
        lambda: policy(reported(at_rest(), refused="requires x", too_old=True)),
        "Healthy",
        "Current",
        "RuntimeTooOld: pod core-0",
    ),
    "stalled by a field": State(
        lambda: policy(with_spec(at_rest(), {**SPEC, "sesions": {}})), "Degraded", "Failed", "spec.sesions"
    ),
    "stalled while paused": State(
        lambda: policy(with_spec(at_rest(), {**SPEC, "paused": True, "sesions": {}})),
        "Degraded",
        "Failed",
        "spec.sesions",
    ),
    "NameConflict": State(
        lambda: policy(with_foreign_config_map()),
        "Degraded",
        "Failed",
        "NameConflict: ConfigMap core-core exists",
    ),
    "refused object": State(
        lambda: policy(at_rest(), errors.Invalid("apply StatefulSet ns/core-state: no", field="spec.x")),
        "Degraded",
        "Failed",
        "StatefulSet ns/core-state",
    ),
    "rejected directive": State(
        lambda: policy(asked("hz", "x", Outcome.REJECTED, "not an integer")),
        "Degraded",
        "Failed",
        "hz: not an integer",
    ),
    "pendingRestart": State(
        lambda: policy(asked("databases", "4", Outcome.IMMUTABLE, "can't set immutable config")),
        "Progressing",
        "InProgress",
        "databases takes effect with the restart",
    ),
    "Redis down": State(
        lambda: policy(down(Role.STATE, DownReason.UNREACHABLE)),
        "Degraded",
        "InProgress",
        "Unreachable: state: pod core-state-0: no connection",
    ),
    "cache hung": State(
        lambda: policy(down(Role.CACHE, DownReason.NO_ANSWER)), "Degraded", "InProgress", "core-cache-0"
    ),
    "image pull failure": State(
        lambda: policy(not_pulled()), "Degraded", "InProgress", "check spec.redis.managed.image"
    ),
    "pod gone": State(
        lambda: policy(with_server(at_rest(), Role.STATE, pod=None, seen=None)),
        "Progressing",
        "InProgress",
        "Starting: state: pod core-state-0",
    ),
    "quota": State(
        lambda: policy(nothing_yet(), errors.Forbidden("apply Service ns/x: exceeded quota")),
        "Degraded",
        "InProgress",
        "exceeded quota",
    ),
    "quota while ready": State(
        lambda: policy(at_rest(), errors.Forbidden("apply Service ns/x: exceeded quota")),
        "Degraded",
        "InProgress",
        "exceeded quota",
    ),
    "throttled": State(
        lambda: policy(at_rest(), errors.Throttled("apply Service ns/x: wait")),
        "Progressing",
        "InProgress",
        "Throttled",
    ),
    "paused": State(lambda: policy(paused(at_rest())), "Suspended", "Current", "spec.paused is true"),
    "hibernated": State(
        lambda: policy(hibernated(at_rest())), "Suspended", "InProgress", "no Redis pods run"
    ),
    "paused, drifted": State(
        lambda: policy(drifted(paused(at_rest()))), "Suspended", "InProgress", "differences are left"
    ),
    "deletion in progress": State(going, "Progressing", "Terminating", "being deleted", "InProgress"),
    "newest change unseen": State(
        lambda: unfinished(policy(at_rest())), "Progressing", "InProgress", "newest change"
    ),
    "fixed, fix unseen": State(
        lambda: unfinished(policy(with_spec(at_rest(), {**SPEC, "sesions": {}}))),
        "Progressing",
        "InProgress",
        "newest change",
    ),
}

every_state = pytest.mark.parametrize("state", STATES.values(), ids=STATES)

# ------------------------------------------------------------------------------------------------ the judges


def lua_table(lua: Any, value: Any) -> Any:
    """``value`` as Argo CD hands it over: maps and lists become tables."""
    if isinstance(value, Mapping):
        return lua.table_from({key: lua_table(lua, item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return lua.table_from([lua_table(lua, item) for item in value])
    return value


def argo_health(obj: Json) -> tuple[str, str]:
    """Status and message of the shipped script."""
    lua: Any = lupa.lua51.LuaRuntime(register_eval=False, register_builtins=False)
    for library in ("string", "math", "io", "os", "debug", "coroutine", "package", "require", "python"):
        lua.globals()[library] = None
    lua.globals()["obj"] = lua_table(lua, obj)
    found = dict(lua.execute(SCRIPT))
    assert set(found) == {"status", "message"}
    return str(found["status"]), str(found["message"])


def kstatus(obj: Json) -> str:
    """`status.Compute` for a kind that has no rules of its own."""
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    found = obj.get("status") or {}
    if found.get("observedGeneration", obj["metadata"]["generation"]) != obj["metadata"]["generation"]:
        return "InProgress"
    conditions = found.get("conditions") or []
    for item in conditions:
        if item["status"] == "True" and item["type"] in ("Reconciling", "Stalled"):
            return "InProgress" if item["type"] == "Reconciling" else "Failed"
    for item in conditions:
        if item["type"] == "Ready":
            return "Current" if item["status"] == "True" else "InProgress"
    return "Current"


def flux_health(obj: Json, kustomization: Json) -> str:
    """`StatusEvaluator.Evaluate`; "Error" where Flux cannot evaluate, looks again and meanwhile waits."""
    found = obj.get("status") or {}
    if found.get("observedGeneration", obj["metadata"]["generation"]) != obj["metadata"]["generation"]:
        return "InProgress"
    (exprs,) = kustomization["spec"]["healthCheckExprs"]
    environment = celpy.Environment()
    content: Any = celpy.adapter.json_to_cel(obj)
    for name, verdict in (("inProgress", "InProgress"), ("failed", "Failed"), ("current", "Current")):
        if name not in exprs:
            continue
        try:
            holds = environment.program(environment.compile(exprs[name])).evaluate(content)
        except celpy.evaluation.CELEvalError:
            return "Error"
        if holds:
            return verdict
    return "InProgress"


# ---------------------------------------------------------------------------------------------------- verdicts


@every_state
def test_argo_cd_shows_the_state_and_why(state: State) -> None:
    verdict, message = argo_health(state.make())
    assert verdict == state.argo
    assert state.words in message


@every_state
def test_kstatus_sees_the_state(state: State) -> None:
    assert kstatus(state.make()) == state.kstatus


@every_state
def test_flux_sees_the_state_by_the_shipped_expressions(state: State) -> None:
    """As kstatus does, but for an object that the operator has not looked at: kstatus calls it current."""
    assert flux_health(state.make(), POLICIES) == (state.flux or state.kstatus)


@pytest.mark.parametrize(
    "name", ["ready, no Core", "ready, enforced", "ready, waiting", "ready, RuntimeTooOld"]
)
def test_nothing_that_core_does_holds_back_what_comes_after_the_policy(name: str) -> None:
    """Core comes in a later wave, its update too: a policy that waited for it would wait for ever."""
    found = STATES[name].make()
    assert (argo_health(found)[0], kstatus(found), flux_health(found, POLICIES)) == (
        "Healthy",
        "Current",
        "Current",
    )


def test_flux_waits_for_core_where_core_is_what_it_applies() -> None:
    verdicts = {name: flux_health(state.make(), CORE) for name, state in STATES.items()}
    assert verdicts["ready, enforced"] == "Current"
    assert set(verdicts.values()) <= {"Current", "InProgress", "Error"}, "it may still get well"
    assert [name for name, verdict in verdicts.items() if verdict == "Current"] == ["ready, enforced"]


# ----------------------------------------------------------------------------------------------------- files


def test_the_argo_cd_patch_holds_one_script_and_nothing_else() -> None:
    """Added to somebody's argocd-cm: no difference is ignored, no library is opened."""
    assert set(CONFIG_MAP["data"]) == {HEALTH_KEY}
    assert (CONFIG_MAP["kind"], CONFIG_MAP["metadata"]["name"]) == ("ConfigMap", "argocd-cm")
    (component,) = documents("argocd/kustomization.yaml")
    assert component["kind"] == "Component"
    assert all((GITOPS / "argocd" / patch["path"]).exists() for patch in component["patches"])


def test_every_reason_of_the_script_is_one_of_ready() -> None:
    listed = set(re.findall(r"^\s+(\w+) = true,$", SCRIPT, re.MULTILINE))
    table = (ROOT / "docs" / "cachepolicy.md").read_text().partition("## Reasons")[2]
    ready = set()
    for line in table.splitlines():
        cells = line.split("|")
        if len(cells) == 5 and "Ready" in cells[2]:
            ready |= set(re.findall(r"`(\w+)`", cells[1]))
    assert listed
    assert listed <= ready


def test_conditions_are_named_as_the_operator_names_them() -> None:
    known = {status.READY, status.STALLED, status.RECONCILING, status.ENFORCED}
    assert set(re.findall(r"found\.(\w+)", SCRIPT)) == known
    for kustomization in (POLICIES, CORE):
        for exprs in kustomization["spec"]["healthCheckExprs"]:
            assert set(re.findall(r"c\.type == '(\w+)'", " ".join(exprs.values()))) <= known


def test_the_sample_application_applies_on_the_server_and_ignores_no_difference() -> None:
    (application,) = documents("argocd/application.yaml")
    assert (application["apiVersion"], application["kind"]) == ("argoproj.io/v1alpha1", "Application")
    spec = application["spec"]
    assert set(spec) == {"project", "source", "destination", "syncPolicy"}
    assert "ServerSideApply=true" in spec["syncPolicy"]["syncOptions"]


def test_the_sample_kustomizations_wait_in_order() -> None:
    for item in (POLICIES, CORE):
        assert (item["apiVersion"], item["kind"]) == ("kustomize.toolkit.fluxcd.io/v1", "Kustomization")
        assert {"interval", "timeout", "path", "prune", "sourceRef"} <= set(item["spec"])
        (exprs,) = item["spec"]["healthCheckExprs"]
        assert (exprs["apiVersion"], exprs["kind"]) == (names.API_VERSION, names.KIND)
        assert set(exprs) <= {"apiVersion", "kind", "current", "failed", "inProgress"}
    assert POLICIES["spec"]["wait"] is True
    assert "healthChecks" not in POLICIES["spec"], "Flux ignores them beside wait"
    assert CORE["spec"]["dependsOn"] == [{"name": POLICIES["metadata"]["name"]}]
    checked = {(item["kind"], item["name"]) for item in CORE["spec"]["healthChecks"]}
    assert checked == {("Deployment", "core"), (names.KIND, "core")}
