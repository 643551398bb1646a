"""What is said about a CachePolicy, and that the same finding is never written twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.policies import with_value
from tests.worlds import (
    SPEC,
    acknowledged,
    all_enforce,
    at_rest,
    core_pod,
    healthy_look,
    nothing_yet,
    redis_pod,
    stored,
    waiting,
    with_core,
    with_live,
    with_server,
    with_spec,
    with_status,
)

from cachepolicy.names import Role
from cachepolicy.status import CachePolicyStatus
from cachepolicy_operator import errors
from cachepolicy_operator.decide import decide
from cachepolicy_operator.liveconfig import Attempt, Outcome
from cachepolicy_operator.observed import Json, Observed
from cachepolicy_operator.reconcile import next_look
from cachepolicy_operator.redis_look import Down, DownReason
from cachepolicy_operator.report import PATIENCE_SECONDS, report, transitions


def said(world: Observed, failure: errors.OperatorError | None = None) -> dict[str, tuple[str, str]]:
    """Condition type → (status, reason)."""
    status = report(world, decide(world), failure)
    return {item["type"]: (item["status"], item["reason"]) for item in status["conditions"]}


def message(world: Observed, kind: str) -> str:
    found = {item["type"]: item["message"] for item in report(world, decide(world))["conditions"]}
    return str(found[kind])


def test_a_policy_at_rest_is_ready_and_says_what_it_has() -> None:
    world = at_rest()
    found = said(world)
    assert found["Ready"] == ("True", "Ready")
    assert found["RedisAvailable"] == ("True", "Available")
    assert found["ConfigApplied"] == ("True", "Applied")
    assert found["Enforced"] == ("Unknown", "NoReplicas")
    assert not {"Reconciling", "Stalled"} & set(found), "present only while true"
    status = report(world, decide(world))
    assert status["sections"] == "sessions,responseCache"
    assert status["redis"]["state"] == {
        "endpoint": "core-state.ns.svc:6379",
        "topology": "Standalone",
        "replicas": 1,
        "readyReplicas": 1,
        "ready": "1/1",
        "version": "redis 7.0.15",
        "maxmemory": str(96 * 1024 * 1024),
    }


def test_the_same_finding_gives_the_same_status_at_any_later_time() -> None:
    """No status is written at rest (rule 22)."""
    world = with_status(at_rest())
    later = replace(world, now=world.now + timedelta(hours=5))
    assert report(later, decide(later)) == world.status


def test_every_status_fits_the_schema_of_the_crd() -> None:
    for world in (nothing_yet(), at_rest(), nothing_yet({**SPEC, "sesions": {}})):
        status = report(world, decide(world))
        CachePolicyStatus.model_validate(status)
        assert all(item["observedGeneration"] == world.generation for item in status["conditions"])


def test_a_policy_just_created_is_reconciling_and_not_ready() -> None:
    found = said(nothing_yet())
    assert found["Ready"] == ("False", "Starting")
    assert found["Reconciling"][0] == "True"


def test_an_image_that_cannot_be_pulled_shows_in_readys_message() -> None:
    world = at_rest()
    sentences = set()
    for reason in ("ErrImagePull", "ImagePullBackOff"):
        pod = waiting(redis_pod(world, Role.STATE), reason)
        broken = with_server(world, Role.STATE, pod=pod, seen=None)
        assert said(broken)["Ready"] == ("False", "ImagePullFailed")
        sentences.add(message(broken, "Ready"))
    assert len(sentences) == 1, "the two alternate: status must not"
    assert "docker.io/library/redis:8.2" in sentences.pop()


@pytest.mark.parametrize("reason", [DownReason.WRONG_PASSWORD, DownReason.NO_ANSWER])
def test_a_redis_that_cannot_be_asked_is_not_available_and_says_why(reason: DownReason) -> None:
    world = with_server(at_rest(), Role.CACHE, seen=Down(reason, "words"))
    assert said(world)["RedisAvailable"] == ("False", str(reason))
    assert said(world)["Ready"] == ("False", str(reason))
    assert message(world, "Ready") == "cache: pod core-cache-0: words"


def test_a_refused_directive_stalls_with_rediss_words() -> None:
    spec = with_value("redis.managed.state.config", {"hz": "x"}, SPEC)
    attempts = {("hz", "x"): Attempt(Outcome.REJECTED, reason="not an integer")}
    world = with_spec(at_rest(), spec)
    look = healthy_look(at_rest(), Role.STATE, hz="10")
    world = with_server(world, Role.STATE, seen=look, attempts=attempts)
    found = said(world)
    assert found["ConfigApplied"] == ("False", "DirectiveRejected")
    assert found["Stalled"] == ("True", "DirectiveRejected")
    status = report(world, decide(world))
    assert status["config"]["rejected"] == [
        {"instance": "core-state", "key": "hz", "reason": "not an integer"}
    ]


def test_a_restart_that_is_under_way_is_pending() -> None:
    spec = with_value("redis.managed.state.config", {"databases": "4"}, SPEC)
    attempts = {("databases", "4"): Attempt(Outcome.IMMUTABLE, reason="can't set immutable config")}
    look = healthy_look(at_rest(), Role.STATE, databases="16")
    world = with_server(with_spec(at_rest(), spec), Role.STATE, seen=look, attempts=attempts)
    assert said(world)["ConfigApplied"] == ("False", "RestartPending")
    status = report(world, decide(world))
    assert status["config"]["pendingRestart"] == [{"instance": "core-state", "key": "databases"}]


def test_a_paused_policy_says_what_it_would_change_and_is_not_reconciling() -> None:
    world = with_spec(at_rest(), {**SPEC, "paused": True})
    assert said(world)["Ready"] == ("True", "Ready")
    drifted = with_live(world, "ConfigMap", "core-state-config", data={"redis.conf": "port 1"})
    found = said(drifted)
    assert found["ConfigApplied"] == ("False", "Paused")
    assert "Reconciling" not in found


def test_a_bad_spec_keeps_what_was_known_and_stalls_with_the_path() -> None:
    world = with_spec(with_status(at_rest()), {**SPEC, "sesions": {}})
    found = said(world)
    assert found["Stalled"] == ("True", "InvalidSpec")
    assert found["Ready"] == ("False", "InvalidSpec")
    assert found["RedisAvailable"] == ("True", "Available")
    assert "spec.sesions" in message(world, "Stalled")
    assert report(world, decide(world))["redis"] == world.status["redis"]


def test_a_failure_of_the_api_server_shows_as_reconciling() -> None:
    found = said(at_rest(), errors.Forbidden("create Secret ns/x: quota"))
    assert found["Reconciling"] == ("True", "Forbidden")


def test_what_could_not_be_written_is_why_a_policy_is_not_ready() -> None:
    """A person who looks at Ready finds the quota, not that a pod is missing."""
    status = report(
        nothing_yet(), decide(nothing_yet()), errors.Forbidden("apply Service ns/x: exceeded quota")
    )
    ready = status["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "Forbidden")
    assert "quota" in ready["message"]


def test_an_object_that_the_api_server_refuses_stalls() -> None:
    found = said(at_rest(), errors.Invalid("apply StatefulSet ns/core-state: no", field="spec.x"))
    assert found["Stalled"] == ("True", "InvalidObject")
    assert found["Ready"] == ("False", "InvalidObject")


# ---------------------------------------------------------------------------------------------- enforced


def test_enforced_counts_pods_of_which_all_processes_enforce_everything() -> None:
    world = at_rest()
    plan = decide(world)
    world = with_core(world, *all_enforce(plan), acknowledged("core-0", plan, pid=2))
    assert said(world)["Enforced"] == ("True", "Enforced")
    core = report(world, decide(world))["core"]
    assert (core["enforced"], core["processes"], core["revision"]) == (
        "2/2",
        3,
        plan.document and plan.document.revision,
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"revision": "old"}, "enforces revision old"),
        ({"enforces": ("sessions",)}, "does not enforce responseCache"),
    ],
)
def test_one_process_that_lags_holds_back_its_pod(changes: dict[str, Any], words: str) -> None:
    world = at_rest()
    plan = decide(world)
    world = with_core(world, *all_enforce(plan), acknowledged("core-0", plan, pid=2, **changes))
    world = replace(world, lagging_seconds=PATIENCE_SECONDS)
    assert said(world)["Enforced"] == ("False", "Waiting")
    assert words in message(world, "Enforced")
    core = report(world, decide(world))["core"]
    assert (core["enforced"], core["lagging"]) == ("1/2", ["core-0"])


def test_a_pod_that_never_reported_lags() -> None:
    world = at_rest()
    world = replace(with_core(world, *all_enforce(decide(world), 1)), lagging_seconds=9.0)
    assert message(world, "Enforced") == "pod core-1 has not reported"


def test_waiting_is_said_only_after_two_looks() -> None:
    """A change that Core enforces within a moment never shows as not enforced."""
    world = at_rest()
    plan = decide(world)
    enforced = with_status(with_core(world, *all_enforce(plan)))
    lagging = with_core(enforced, *[acknowledged(f"core-{n}", plan, revision="old") for n in range(2)])
    assert said(lagging)["Enforced"] == ("True", "Enforced")
    assert report(lagging, decide(lagging))["core"]["enforced"] == "0/2", "the count is what it is"
    assert said(replace(lagging, lagging_seconds=PATIENCE_SECONDS))["Enforced"] == ("False", "Waiting")


def test_a_runtime_that_lacks_what_the_document_requires_is_too_old_at_once() -> None:
    world = at_rest()
    plan = decide(world)
    report_ = acknowledged("core-1", plan, refused="requires x", too_old=True)
    world = with_core(world, *all_enforce(plan, 1), report_)
    assert said(world)["Enforced"] == ("False", "RuntimeTooOld")
    assert "requires x" in message(world, "Enforced")


def test_a_runtime_that_cannot_read_the_document_is_not_too_old() -> None:
    """Another version would not help: the directory is the trouble."""
    world = at_rest()
    plan = decide(world)
    report_ = acknowledged("core-1", plan, refused="policy.json is gone")
    world = with_core(world, *all_enforce(plan, 1), report_)
    assert said(world)["Enforced"][1] != "RuntimeTooOld"
    assert "policy.json is gone" in message(world, "Enforced")


def test_enforced_never_influences_ready() -> None:
    """With sync waves Core comes after the policy (rule 24)."""
    world = replace(with_core(at_rest()), lagging_seconds=99.0)
    found = said(world)
    assert found["Enforced"] == ("False", "Waiting")
    assert found["Ready"] == ("True", "Ready")
    assert not {"Reconciling", "Stalled"} & set(found)


def test_pods_that_are_starting_or_ending_do_not_count() -> None:
    world = at_rest()
    ending = core_pod("core-2")
    ending["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    world = with_core(world, *all_enforce(decide(world)))
    world = replace(world, core_pods=(*world.core_pods, core_pod("core-3", "Pending"), ending))
    assert report(world, decide(world))["core"]["enforced"] == "2/2"


def test_without_the_control_server_nobody_can_tell() -> None:
    world = with_core(at_rest())
    world = with_server(world, Role.STATE, seen=Down(DownReason.UNREACHABLE, "no connection"))
    assert said(world)["Enforced"] == ("Unknown", "RedisUnavailable")


# ------------------------------------------------------------------------------------------------ events


def statuses(*worlds: Observed) -> list[Json]:
    return [report(world, decide(world)) for world in worlds]


def test_an_event_tells_each_transition_once() -> None:
    new, ready = statuses(nothing_yet(), at_rest())
    assert transitions({}, new) == (), "a beginning is no news"
    (notice,) = transitions(new, ready)
    assert (notice.reason, notice.warning) == ("Ready", False)
    assert transitions(ready, ready) == ()


def test_a_fall_is_a_warning_with_its_reason() -> None:
    world = at_rest()
    fallen = with_server(world, Role.STATE, seen=Down(DownReason.WRONG_PASSWORD, "words"))
    before, after = statuses(world, fallen)
    (notice,) = transitions(before, after)
    assert (notice.reason, notice.warning) == ("WrongPassword", True)


def test_what_stalls_is_told_once() -> None:
    before, after = statuses(at_rest(), with_spec(at_rest(), {**SPEC, "sesions": {}}))
    assert [notice.reason for notice in transitions(before, after)] == ["InvalidSpec"]


def test_a_hibernated_policy_is_neither_ready_nor_busy_nor_stalled() -> None:
    awake = at_rest()
    world = with_spec(awake, with_value("redis.managed.hibernated", True, SPEC))
    for role in Role:
        world = with_server(world, role, pod=None, seen=None)
    world = stored(world)
    found = said(world)
    assert found["Ready"] == found["RedisAvailable"] == ("False", "Hibernated")
    assert found["ConfigApplied"] == ("True", "Applied")
    assert not {"Reconciling", "Stalled"} & set(found)
    assert "without storage, state and cache comes back empty" in message(world, "Ready")
    status = report(world, decide(world))
    assert status["redis"]["state"]["ready"] == "0/0"
    assert next_look(world, decide(world), status, lagging=False) is None, "nothing is waited for"
    (event,) = transitions(report(awake, decide(awake)), status)
    assert (event.reason, event.warning) == ("Hibernated", False)
