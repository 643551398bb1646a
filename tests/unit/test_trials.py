"""Directives that need a restart are tried in a pod of their own before the server sees them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.policies import with_value
from tests.worlds import SPEC, at_rest, stored, with_server, with_spec

from cachepolicy.names import Role
from cachepolicy_operator import trials
from cachepolicy_operator.decide import decide
from cachepolicy_operator.liveconfig import Attempt, Outcome
from cachepolicy_operator.observed import Json, Observed
from cachepolicy_operator.plan import Plan
from cachepolicy_operator.report import report
from cachepolicy_operator.rollout import mounted_config_map

IMMUTABLE = Attempt(Outcome.IMMUTABLE, "16", "16", "can't set immutable config")


def asked_for(value: str) -> Observed:
    """A running policy whose new ``databases`` its server has called immutable."""
    wanted = with_spec(at_rest(), with_value("redis.managed.state.config", {"databases": value}, SPEC))
    return with_server(wanted, Role.STATE, attempts={("databases", value): IMMUTABLE})


def trial_of(plan: Plan) -> Json:
    (pod,) = (write.obj for write in plan.writes if write.obj["kind"] == "Pod")
    return pod


def ended(world: Observed, phase: str, message: str = "") -> Observed:
    """``world`` after its trial has ended."""
    world = stored(world)
    (known,) = (known for known in world.objects if known[0] == "Pod")
    state = {"terminated": {"exitCode": 0 if phase == "Succeeded" else 1, "message": message}}
    status = {"phase": phase, "containerStatuses": [{"name": "trial", "state": state}]}
    return replace(world, objects={**world.objects, known: {**world.objects[known], "status": status}})


def mounted(world: Observed) -> str | None:
    return mounted_config_map(world.objects["StatefulSet", "core-state"], "restart")


def condition(world: Observed, kind: str) -> tuple[str, str]:
    found = {item["type"]: item for item in report(world, decide(world))["conditions"]}
    return found[kind]["reason"], found[kind]["message"]


def test_a_value_is_tried_before_the_server_restarts_with_it() -> None:
    world = asked_for("4")
    plan = decide(world)
    pod = trial_of(plan)
    names = {write.obj["metadata"]["name"] for write in plan.writes}
    (files,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "restart")
    assert files["configMap"]["name"] in names, "what it mounts is written too"
    assert "core-state" not in names, "the StatefulSet waits"
    reason, message = condition(stored(world), "ConfigApplied")
    assert reason == "RestartPending"
    assert plan.waits == ("state: databases: tried in a pod of its own before the server restarts",), message


def test_after_a_good_trial_the_server_restarts_and_the_pod_goes() -> None:
    world = ended(asked_for("4"), "Succeeded")
    plan = decide(world)
    (write,) = plan.writes
    assert write.obj["metadata"]["name"] == "core-state"
    assert mounted_config_map(write.obj, "restart")
    assert [(removal.kind, removal.notice) for removal in plan.removals] == [("Pod", None)]
    world = stored(world)
    assert mounted(world)
    assert not [write for write in decide(world).writes if write.obj["kind"] == "Pod"], (
        "it is not tried again"
    )


def test_a_bad_value_is_refused_in_redis_words_and_nothing_restarts() -> None:
    words = "*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***\nReading the configuration file, at line 2\n>>> 'databases -5'\nInvalid number of databases"
    world = ended(asked_for("-5"), "Failed", words)
    plan = decide(world)
    assert (plan.writes, plan.removals) == ((), ()), "the pod stays as the memory of it"
    assert "Invalid number of databases" in plan.servers[Role.STATE].live.rejected["databases"]
    reason, message = condition(world, "Stalled")
    assert reason == "DirectiveRejected"
    assert "the server does not start with it" in message
    assert plan.servers[Role.STATE].pending_restart == ()


def test_another_value_is_another_trial_and_the_old_one_goes() -> None:
    world = ended(asked_for("-5"), "Failed", "x")
    again = with_server(
        with_spec(world, with_value("redis.managed.state.config", {"databases": "6"}, SPEC)),
        Role.STATE,
        attempts={("databases", "6"): IMMUTABLE},
    )
    plan = decide(again)
    (gone,) = (removal.name for removal in plan.removals if removal.kind == "Pod")
    assert trial_of(plan)["metadata"]["name"] != gone


def test_a_directive_that_leaves_the_spec_needs_no_trial() -> None:
    world = stored(ended(asked_for("4"), "Succeeded"))
    plan = decide(with_spec(world, SPEC))
    (write,) = (write for write in plan.writes if write.obj["kind"] == "StatefulSet")
    assert mounted_config_map(write.obj, "restart") is None
    assert not [write for write in plan.writes if write.obj["kind"] == "Pod"]


@pytest.mark.parametrize(
    ("wanted", "current", "expected"),
    [
        ({}, {}, False),
        ({"a": "1"}, {}, True),
        ({"a": "1"}, {"a": "1", "b": "2"}, False),
        ({"a": "2"}, {"a": "1"}, True),
    ],
)
def test_what_a_server_did_not_start_with_before_is_tried(
    wanted: dict[str, str], current: dict[str, str], expected: bool
) -> None:
    assert trials.needed(wanted, current) is expected


def test_the_directive_that_redis_names_is_the_one_that_is_refused() -> None:
    pod: Any = {
        "metadata": {"name": "x"},
        "status": {
            "phase": "Failed",
            "containerStatuses": [
                {"state": {"terminated": {"exitCode": 1, "message": ">>> 'io-threads 9999'"}}}
            ],
        },
    }
    wanted = {"databases": "4", "io-threads": "9999"}
    found = trials.judge(wanted, {}, pod)
    assert set(found.rejected) == {"io-threads"}
    assert found.restart == {}


def test_the_trial_is_restricted_and_touches_no_data() -> None:
    pod = trial_of(decide(asked_for("4")))
    (container,) = pod["spec"]["containers"]
    assert pod["spec"]["restartPolicy"] == "Never"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {"config", "restart", "tmp"}
    assert (
        container["command"][-10:]
        == [
            *(
                "--port",
                "0",
                "--unixsocket",
                "/tmp/trial.sock",
                "--dir",
                "/tmp",
                "--appendonly",
                "no",
                "--save",
                "",
            ),
            *("--daemonize", "no"),
        ][-10:]
    )
