"""Nothing is written where nothing changes: an operator that writes at rest wakes every watcher of the cluster."""

from __future__ import annotations

import time

from tests.cluster.core import Core
from tests.cluster.installation import Operator
from tests.cluster.kube import wait_for
from tests.cluster.policy import Policy

#: The shortest that the operator takes; its rounds vary by a fifth.
RESYNC_SECONDS = 10
TWO_ROUNDS = RESYNC_SECONDS * 1.2 * 2 + 3


def test_no_object_is_written_over_an_operator_restart_and_two_resyncs(
    policy: Policy, core: Core, operator: Operator
) -> None:
    """Target 16: zero writes, resourceVersions of the policy, of its objects and of its pods stay."""
    before, events = policy.versions(), event_names(policy)
    assert len(before) == 17, sorted(before)
    operator.set_env({"CACHEPOLICY_RESYNC_INTERVAL": f"{RESYNC_SECONDS}s"})
    try:
        since = time.monotonic()
        wait_for("two resyncs", lambda: time.monotonic() - since > TWO_ROUNDS, timeout=60, every=1)
        assert policy.versions() == before
        assert event_names(policy) == events
        assert policy.condition("Enforced") == ("True", "Enforced")
        # It was looking all the while: what is taken away now comes back.
        missing = next(iter(item for item in policy.owned() if item["kind"] == "Service"))["metadata"]["name"]
        policy.cluster.delete("Service", policy.namespace, missing)
        wait_for("the Service", lambda: policy.cluster.get("Service", policy.namespace, missing), timeout=10)
    finally:
        operator.set_env({"CACHEPOLICY_RESYNC_INTERVAL": ""})


def event_names(policy: Policy) -> set[str]:
    """Events about the policy."""
    return {
        event["metadata"]["name"]
        for event in policy.cluster.list("Event", policy.namespace)
        if event["involvedObject"].get("name") == policy.name
    }
