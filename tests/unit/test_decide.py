"""Decisions about one CachePolicy, from plain values to plain values."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.policies import with_value, without
from tests.worlds import (
    NOW,
    SPEC,
    UID,
    as_stored,
    at_rest,
    healthy_look,
    nothing_yet,
    policy,
    redis_pod,
    stored,
    waiting,
    with_live,
    with_server,
    with_spec,
)

from cachepolicy.document import read_document
from cachepolicy.names import Role
from cachepolicy_operator import errors
from cachepolicy_operator.decide import decide
from cachepolicy_operator.observed import Json, Observed
from cachepolicy_operator.plan import Plan, WaitingForGC
from cachepolicy_operator.redis_look import Down, DownReason
from cachepolicy_operator.writer import stages

STORAGE = with_value("redis.managed.state.storage", {"size": "1Gi"}, SPEC)


def written(plan: Plan) -> list[tuple[str, str]]:
    return [(write.obj["kind"], write.obj["metadata"]["name"]) for write in plan.writes]


def removed(plan: Plan) -> list[tuple[str, str]]:
    return [(removal.kind, removal.name) for removal in plan.removals]


def claim(size: str, capacity: str) -> Json:
    return {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-core-state-0"},
        "spec": {"resources": {"requests": {"storage": size}}},
        "status": {"capacity": {"storage": capacity}},
    }


def test_everything_is_made_in_three_stages() -> None:
    """Passwords are stored before anything that may fail, or they would be made again; pods mount the rest."""
    plan = decide(nothing_yet())
    first, then, last = [{write.obj["kind"] for write in stage} for stage in stages(plan.writes)]
    assert (first, then, last) == ({"Secret"}, {"ConfigMap", "Service", "NetworkPolicy"}, {"StatefulSet"})
    assert len(plan.writes) == 4 + 1 + 3 + 4 + 2
    assert all(write.reasons == ("missing",) for write in plan.writes)
    assert plan.document is not None
    assert plan.document.sequence == int(NOW.timestamp() * 1000)


def test_at_rest_nothing_is_written_sent_or_published() -> None:
    plan = decide(at_rest())
    assert (plan.changes, plan.directives, plan.publish, plan.notices) == (0, {}, False, ())
    assert all(not server.users for server in plan.servers.values())


def test_an_edited_object_is_the_only_one_that_is_written_again() -> None:
    world = with_live(at_rest(), "ConfigMap", "core-state-config", data={"redis.conf": "port 1"})
    assert written(decide(world)) == [("ConfigMap", "core-state-config")]


def test_what_differs_after_it_was_applied_is_not_applied_again() -> None:
    """Until either side changes."""
    from cachepolicy_operator.decide import digest

    world = with_live(at_rest(), "ConfigMap", "core-state-config", data={"redis.conf": "port 1"})
    (write,) = decide(world).writes
    tried = {("ConfigMap", "core-state-config"): (digest(write.obj), "7")}
    assert written(decide(replace(world, unappliable=tried))) == []
    elsewhere = {("ConfigMap", "core-state-config"): (digest(write.obj), "6")}
    assert written(decide(replace(world, unappliable=elsewhere))) != []


# ------------------------------------------------------------------------------------------- whose it is


def test_somebody_elses_object_under_our_name_stops_all_writing() -> None:
    foreign = {"kind": "ConfigMap", "metadata": {"name": "core-core"}, "data": {"a": "b"}}
    plan = decide(replace(nothing_yet(), objects={("ConfigMap", "core-core"): foreign}))
    assert isinstance(plan.blocked, errors.Stalled)
    assert plan.blocked.reason == "NameConflict"
    assert "ConfigMap core-core" in str(plan.blocked)
    assert plan.changes == 0


def test_objects_of_a_deleted_policy_of_the_same_name_are_waited_for() -> None:
    world = stored(nothing_yet())
    reborn = copy.deepcopy(world.policy)
    reborn["metadata"]["uid"] = "another"
    plan = decide(replace(world, policy=reborn))
    assert isinstance(plan.blocked, WaitingForGC)
    assert plan.changes == 0


def test_an_orphan_with_our_labels_is_adopted() -> None:
    world = at_rest()
    live = copy.deepcopy(world.objects["Service", "core-state"])
    del live["metadata"]["ownerReferences"]
    world = replace(world, objects={**world.objects, ("Service", "core-state"): live})
    assert written(decide(world)) == [("Service", "core-state")]


def test_an_object_that_is_being_deleted_is_waited_for() -> None:
    world = at_rest()
    live = copy.deepcopy(world.objects["Service", "core-state"])
    live["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    plan = decide(replace(world, objects={**world.objects, ("Service", "core-state"): live}))
    assert written(plan) == []
    assert plan.waits == ("Service core-state is being deleted and will be made anew",)


# ----------------------------------------------------------------------------------------------- pruning


def test_a_server_without_a_section_is_removed_and_its_claim_is_kept() -> None:
    world = replace(at_rest(STORAGE), claims={"data-core-state-0": claim("1Gi", "1Gi")})
    plan = decide(with_spec(world, without("sessions", without("redis.managed.state", STORAGE))))
    assert ("StatefulSet", "core-state") in removed(plan)
    assert ("Service", "core-state-headless") in removed(plan)
    (notice,) = [removal.notice for removal in plan.removals if removal.notice is not None]
    assert notice.reason == "ServerRemoved"
    assert "data-core-state-0" in notice.note
    assert all(kind != "PersistentVolumeClaim" for kind, _ in removed(plan))


def test_only_what_this_policy_controls_is_pruned() -> None:
    """Labels can be copied; a controller cannot."""
    copied = {
        "kind": "ConfigMap",
        "metadata": {
            "name": "mine",
            "uid": "x",
            "labels": {
                "app.kubernetes.io/managed-by": "cachepolicy-operator",
                "cache.masterclaw.io/owner": "core",
            },
        },
    }
    world = at_rest()
    assert removed(decide(replace(world, objects={**world.objects, ("ConfigMap", "mine"): copied}))) == []


def test_a_restart_file_is_kept_while_a_pod_has_it_mounted() -> None:
    world = at_rest()
    old = as_stored(world.objects["ConfigMap", "core-state-config"])
    old["metadata"]["name"] = "core-state-restart-old"
    old["data"] = {"restart.json": '{"databases": "4"}'}
    pod = redis_pod(world, Role.STATE)
    pod["spec"]["volumes"].append({"name": "restart", "configMap": {"name": "core-state-restart-old"}})
    world = replace(world, objects={**world.objects, ("ConfigMap", "core-state-restart-old"): old})
    in_use = decide(with_server(world, Role.STATE, pod=pod))
    assert removed(in_use) == []
    assert in_use.servers[Role.STATE].pending_restart == ("databases",)
    assert removed(decide(world)) == [("ConfigMap", "core-state-restart-old")]


# -------------------------------------------------------------------------------------------- directives


def test_a_directive_is_set_before_it_is_written() -> None:
    spec = with_value("redis.managed.state.config", {"maxclients": "2000"}, SPEC)
    world = at_rest()
    seen = healthy_look(world, Role.STATE, maxclients="10000")
    plan = decide(with_server(with_spec(world, spec), Role.STATE, seen=seen))
    assert plan.directives == {Role.STATE: {"maxclients": "2000"}}
    assert written(plan) == []


def test_a_foreign_change_of_the_operators_directive_is_set_right() -> None:
    world = at_rest()
    seen = healthy_look(world, Role.STATE, maxmemory_policy="allkeys-lru")
    plan = decide(with_server(world, Role.STATE, seen=seen))
    assert plan.directives == {Role.STATE: {"maxmemory-policy": "noeviction"}}


def test_a_live_change_never_touches_the_pod_template() -> None:
    spec = with_value("redis.managed.cache.config", {"lfu-decay-time": "10"}, SPEC)
    before = decide(nothing_yet())
    after = decide(nothing_yet(spec))
    templates = [
        [write.obj["spec"]["template"] for write in plan.writes if write.obj["kind"] == "StatefulSet"]
        for plan in (before, after)
    ]
    assert templates[0] == templates[1]


def test_raising_memory_changes_the_pod_first_and_maxmemory_when_the_pod_has_it() -> None:
    world = at_rest()
    raised = with_spec(world, with_value("redis.managed.state.resources.limits.memory", "256Mi", SPEC))
    first = decide(raised)
    assert ("StatefulSet", "core-state") in written(first)
    assert first.directives == {}
    after = stored(raised)
    then = decide(with_server(after, Role.STATE, pod=redis_pod(after, Role.STATE)))
    assert then.directives == {Role.STATE: {"maxmemory": str(192 * 1024 * 1024)}}


def test_lowering_memory_waits_while_the_data_would_not_fit() -> None:
    lowered = with_spec(at_rest(), with_value("redis.managed.state.resources.limits.memory", "64Mi", SPEC))
    full = replace(healthy_look(at_rest(), Role.STATE), used_memory=50 * 1024 * 1024)
    plan = decide(with_server(lowered, Role.STATE, seen=full))
    assert plan.directives == {}
    assert written(plan) == []
    held = plan.servers[Role.STATE].held
    assert held is not None
    assert "spec.redis.managed.state.resources.limits.memory" in held


def test_lowering_memory_sets_maxmemory_before_the_pod_is_made_smaller() -> None:
    lowered = with_spec(at_rest(), with_value("redis.managed.state.resources.limits.memory", "64Mi", SPEC))
    plan = decide(lowered)
    assert plan.directives == {Role.STATE: {"maxmemory": str(32 * 1024 * 1024)}}
    assert plan.servers[Role.STATE].held is None


# ------------------------------------------------------------------------------------------ users, document


def test_a_changed_password_in_redis_is_set_as_the_secret_says() -> None:
    world = at_rest()
    look = healthy_look(world, Role.STATE)
    drifted = replace(look, users={**look.users, "core": frozenset({"0" * 64})})
    users = decide(with_server(world, Role.STATE, seen=drifted)).servers[Role.STATE].users
    assert set(users) == {"core"}
    assert not any("core-word" in argument for argument in users["core"]), "hashes only"


def test_a_user_that_cannot_log_in_any_more_is_set_up_again() -> None:
    world = at_rest()
    look = healthy_look(world, Role.STATE)
    gone = replace(look, users={name: hashes for name, hashes in look.users.items() if name != "probe"})
    assert set(decide(with_server(world, Role.STATE, seen=gone)).servers[Role.STATE].users) == {"probe"}


def test_the_document_is_published_where_redis_lacks_it_or_has_an_old_one() -> None:
    world = at_rest()
    for found in (None, b"{}"):
        look = replace(healthy_look(world, Role.STATE), document=found)
        assert decide(with_server(world, Role.STATE, seen=look)).publish
    away = Down(DownReason.NO_ANSWER, "no answer within 1 s")
    assert not decide(with_server(world, Role.STATE, seen=away)).publish


def test_the_sequence_rises_when_the_content_changes_even_if_the_clock_went_back() -> None:
    world = at_rest()
    before = decide(world).document
    assert before is not None
    early = replace(world, now=NOW.replace(year=2020))
    assert decide(early).document == before, "same content, same sequence"
    after = decide(with_spec(early, with_value("responseCache.ttl", "11m", SPEC))).document
    assert after is not None
    assert after.sequence == before.sequence + 1


def test_the_repair_of_an_edited_document_gets_a_higher_sequence() -> None:
    """Somebody may have enforced the edited one: it said the same revision."""
    world = at_rest()
    before = decide(world).document
    assert before is not None
    content = json.loads(before.to_json())
    content["responseCache"]["ttl"] = "99h"
    world = with_live(world, "ConfigMap", "core-core", data={"policy.json": json.dumps(content)})
    plan = decide(replace(world, remembered=None))
    assert plan.document is not None
    assert plan.document.revision == before.revision
    assert plan.document.sequence > before.sequence


def test_the_document_that_is_written_is_one_that_the_runtime_reads() -> None:
    (core,) = [
        write.obj
        for write in decide(nothing_yet()).writes
        if write.obj["metadata"]["name"] == "core-core" and write.obj["kind"] == "ConfigMap"
    ]
    reading = read_document(core["data"]["policy.json"].encode())
    assert (reading.document.uid, reading.ignored) == (UID, ())


def test_lost_credentials_are_told_with_what_follows_from_it() -> None:
    plan = decide(replace(at_rest(), lost_credentials=("core_password",)))
    (notice,) = plan.notices
    assert notice.warning
    assert "restart once" in notice.note


# ------------------------------------------------------------------------------- pods and volumes


def test_a_broken_pod_that_holds_up_a_newer_revision_is_deleted() -> None:
    world = at_rest()
    pod = waiting(redis_pod(world, Role.STATE), "ImagePullBackOff", revision="rev-1")
    plan = decide(with_server(world, Role.STATE, pod=pod, seen=None))
    assert removed(plan) == [("Pod", "core-state-0")]


@pytest.mark.parametrize(
    ("reason", "revision"),
    [
        pytest.param("ImagePullBackOff", "rev-2", id="of the newest revision: deleting would not help"),
        pytest.param("ContainerCreating", "rev-1", id="still starting"),
    ],
)
def test_any_other_pod_is_left_alone(reason: str, revision: str) -> None:
    world = at_rest()
    pod = waiting(redis_pod(world, Role.STATE), reason, revision=revision)
    assert removed(decide(with_server(world, Role.STATE, pod=pod, seen=None))) == []


def test_a_volume_grows_in_three_steps() -> None:
    """The claim is asked, its capacity awaited, then the StatefulSet made anew around its pod."""
    wanted = with_value("redis.managed.state.storage", {"size": "2Gi"}, SPEC)
    world = with_spec(at_rest(STORAGE), wanted)

    asked = decide(replace(world, claims={"data-core-state-0": claim("1Gi", "1Gi")}))
    assert [(growth.claim, growth.size) for growth in asked.growths] == [("data-core-state-0", "2Gi")]
    assert (written(asked), removed(asked)) == ([], [])

    waits = decide(replace(world, claims={"data-core-state-0": claim("2Gi", "1Gi")}))
    assert (waits.growths, written(waits), removed(waits)) == ((), [], [])
    assert waits.waits == ("PersistentVolumeClaim data-core-state-0 grows to 2Gi",)

    grown = decide(replace(world, claims={"data-core-state-0": claim("2Gi", "2Gi")}))
    (removal,) = grown.removals
    assert (removal.kind, removal.name, removal.orphan) == ("StatefulSet", "core-state", True)
    assert written(grown) == [], "only after it has gone"


# ----------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("spec", "reason", "path"),
    [
        ({**SPEC, "sesions": {}}, "InvalidSpec", "spec.sesions"),
        (with_value("responseCache.ttl", "ten", SPEC), "InvalidSpec", "spec.responseCache.ttl"),
        (
            with_value("redis.managed.state.resources.limits.memory", "33Mi", SPEC),
            "MemoryTooSmall",
            "spec.redis.managed.state.resources.limits.memory",
        ),
    ],
)
def test_a_spec_that_cannot_work_stalls_with_its_fields_path(
    spec: dict[str, Any], reason: str, path: str
) -> None:
    plan = decide(nothing_yet(spec))
    assert isinstance(plan.blocked, errors.Stalled)
    assert (plan.blocked.reason, plan.blocked.field) == (reason, path)
    assert path in str(plan.blocked)
    assert plan.changes == 0


def test_a_name_that_services_cannot_have_stalls() -> None:
    named = policy()
    named["metadata"]["name"] = "9lives"
    plan = decide(replace(nothing_yet(), policy=named))
    assert isinstance(plan.blocked, errors.Stalled)
    assert plan.blocked.field == "metadata.name"


def test_no_secret_is_in_anything_but_secrets() -> None:
    words = ("operator-word", "core-word", "hmac-word", "admin-word")
    plan: Plan = decide(nothing_yet())
    text = json.dumps([write.obj for write in plan.writes if write.obj["kind"] != "Secret"])
    assert not any(word in text for word in words)
    world: Observed = at_rest()
    assert not any(word in repr(decide(world)) for word in words)


def test_closing_a_server_that_was_open_is_told() -> None:
    """Rule 12: nobody is locked out silently. A new policy was never open."""
    world = at_rest()
    missing = {key: obj for key, obj in world.objects.items() if key[0] != "NetworkPolicy"}
    (notice,) = decide(replace(world, objects=missing)).notices
    assert notice.reason == "NetworkPolicyCreated"
    assert "cache.masterclaw.io/policy=core" in notice.note
    assert decide(nothing_yet()).notices == ()
