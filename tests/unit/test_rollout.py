"""What pods and StatefulSets say about themselves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.worlds import at_rest, redis_pod, waiting

from cachepolicy.names import Role
from cachepolicy_operator import rollout

WORLD = at_rest()
STATEFUL_SET = WORLD.objects["StatefulSet", "core-state"]
POD = redis_pod(WORLD, Role.STATE)

FATAL = """1:C 24 Nov 2026 12:00:00.000 * oO0OoO0OoO0Oo Redis is starting oO0OoO0OoO0Oo

*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***
Reading the configuration file, at line 1
>>> 'databases -5'
argument must be between 1 and 2147483647 inclusive
"""


def crashed(message: str, **ended: Any) -> dict[str, Any]:
    pod = waiting(POD, "CrashLoopBackOff")
    pod["status"]["containerStatuses"][0]["lastState"] = {
        "terminated": {"exitCode": 1, "message": message, **ended}
    }
    return pod


@pytest.mark.parametrize(
    "change",
    [
        {"observedGeneration": 0},
        {"updatedReplicas": 0},
        {"availableReplicas": 0},
        {"currentRevision": "rev-1"},
    ],
)
def test_a_rollout_is_done_only_when_every_sign_of_it_is_there(change: dict[str, Any]) -> None:
    """Rule 20."""
    assert rollout.rolled_out(STATEFUL_SET)
    changed = copy.deepcopy(STATEFUL_SET)
    changed["status"] |= change
    assert not rollout.rolled_out(changed)
    assert not rollout.rolled_out(None)


def test_a_pod_that_ends_is_not_ready_whatever_it_says() -> None:
    ending = copy.deepcopy(POD)
    ending["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    assert rollout.ready(POD)
    assert not rollout.ready(ending)


def test_rediss_own_words_say_why_it_did_not_start() -> None:
    found = rollout.trouble(crashed(FATAL), "core-state-0")
    assert found.reason == "Crashing"
    assert "'databases -5' argument must be between 1" in found.message
    assert found.message.startswith("pod core-state-0: *** FATAL CONFIG")


def test_the_last_log_line_comes_without_its_time() -> None:
    """Or each crash would be a new status."""
    found = rollout.trouble(crashed("1:M 24 Nov 2026 12:00:00.000 # Bad file format\n"), "p")
    assert found.message == "pod p: Bad file format (exit code 1)"


def test_a_pod_killed_for_its_memory_says_what_to_raise() -> None:
    found = rollout.trouble(crashed("", reason="OOMKilled", exitCode=137), "p")
    assert "raise resources.limits.memory" in found.message


def test_crashing_is_one_word_while_the_container_waits_and_while_it_runs_again() -> None:
    waits = crashed(FATAL)
    runs = copy.deepcopy(waits)
    runs["status"]["containerStatuses"][0]["state"] = {"running": {}}
    assert rollout.trouble(waits, "p") == rollout.trouble(runs, "p")


def test_a_pod_that_has_no_node_says_why() -> None:
    pod = copy.deepcopy(POD)
    pod["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: Insufficient memory"}
    ]
    found = rollout.trouble(pod, "p")
    assert (found.reason, found.broken) == ("Unschedulable", True)
    assert "Insufficient memory" in found.message


def test_no_pod_and_a_starting_pod_are_no_trouble() -> None:
    for pod in (None, waiting(POD, "ContainerCreating")):
        assert not rollout.trouble(pod, "p").broken


def test_a_pod_is_not_stuck_before_the_controller_has_seen_the_change() -> None:
    broken = waiting(POD, "ImagePullBackOff", revision="rev-1")
    assert rollout.stuck(broken, STATEFUL_SET)
    unseen = copy.deepcopy(STATEFUL_SET)
    unseen["metadata"]["generation"] = 2
    assert not rollout.stuck(broken, unseen)


def test_the_field_that_forces_a_new_statefulset_is_named() -> None:
    """Rule 17."""
    assert rollout.fixed_difference(STATEFUL_SET, STATEFUL_SET) is None
    other = copy.deepcopy(STATEFUL_SET)
    other["spec"]["serviceName"] = "other"
    assert rollout.fixed_difference(STATEFUL_SET, other) == "spec.serviceName"
