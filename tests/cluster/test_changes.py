"""A changed policy is enforced by running pods; what needs a restart gets exactly one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.cluster.core import CAROL, Core, Replica
from tests.cluster.installation import core_spec
from tests.cluster.kube import Cluster, wait_for
from tests.cluster.policy import START_SECONDS, Policy
from tests.policies import Spec, with_value

from cachepolicy import names
from cachepolicy.names import Role

CONFIG = {role: f"redis.managed.{role}.config" for role in Role}


def changed(path: str, value: Any) -> Spec:
    return with_value(path, value, core_spec())


def test_a_changed_limit_is_enforced_by_both_replicas_within_two_seconds(policy: Policy, core: Core) -> None:
    """And no pod restarts: not Core's, not Redis's."""
    replicas, before = core.pair(), (core.lives(), policy.lives(), policy.document)
    limit = {"by": [{"type": "User"}], "rates": [{"limit": 777, "window": "7m"}]}
    policy.apply(changed("rateLimits", {"per-user": limit}))
    since = time.monotonic()
    wait_for(
        "both replicas to announce the new limit",
        lambda: all("q=777" in told(replica) for replica in replicas),
        timeout=5,
        every=0.02,
    )
    took = time.monotonic() - since
    policy.wait_enforced()
    assert took < 2, f"it took {took:.1f} s"
    assert policy.document["revision"] != before[2]["revision"]
    assert policy.document["sequence"] > before[2]["sequence"]
    assert (core.lives(), policy.lives()) == before[:2]


def told(replica: Replica) -> str:
    """What the replica tells about its limits, with any answer."""
    answer = replica.request("GET", "/v1/session", key=CAROL)
    return str(answer.headers.get("RateLimit-Policy", "")).replace(" ", "")


def test_a_changed_ttl_gives_a_new_revision_that_both_enforce(policy: Policy, core: Core) -> None:
    before = core.lives(), policy.lives(), policy.document["revision"]
    policy.apply(changed("responseCache.ttl", "11m"))
    policy.wait_enforced(timeout=5)
    assert policy.document["responseCache"]["ttl"] == "11m"
    assert policy.status["core"]["revision"] == policy.document["revision"] != before[2]
    assert (core.lives(), policy.lives()) == before[:2]


def test_a_pod_selector_of_ones_own_says_whose_word_counts(policy: Policy) -> None:
    policy.apply(changed("core.podSelector", {"matchLabels": {"app.kubernetes.io/name": "core"}}))
    policy.wait_enforced()
    policy.apply(changed("core.podSelector", {"matchLabels": {"app.kubernetes.io/name": "elsewhere"}}))
    message = policy.wait_until("Enforced", "Unknown", "NoReplicas")
    assert "app.kubernetes.io/name=elsewhere" in message
    assert policy.condition("Ready")[0] == "True"


def test_a_section_can_be_taken_away_and_given_back(policy: Policy, core: Core) -> None:
    spec = core_spec()
    del spec["embeddingCache"]
    policy.apply(spec)
    policy.wait_enforced()
    assert policy.status["sections"] == "sessions,rateLimits,responseCache"
    assert core.pair()[0].embed("not cached now").status_code == 200
    policy.apply(core_spec())
    policy.wait_enforced()


def test_a_live_directive_is_live_and_read_back_without_a_restart(policy: Policy) -> None:
    """The file has it in the server's own spelling; removed from the spec, the value from before is back."""
    lives, initial = policy.lives(), policy.directive(Role.CACHE, "client-query-buffer-limit")
    policy.apply(changed(CONFIG[Role.CACHE], {"lfu-decay-time": "7", "client-query-buffer-limit": "64mb"}))
    wait_for(
        "the live values",
        lambda: (
            policy.directive(Role.CACHE, "client-query-buffer-limit") == str(64 * 1024 * 1024)
            and policy.directive(Role.CACHE, "lfu-decay-time") == "7"
        ),
        timeout=5,
    )
    policy.wait_ready()
    config_map = names.redis_config_map(policy.name, Role.CACHE)
    file = policy.cluster.need("ConfigMap", policy.namespace, config_map)["data"][names.FILE_REDIS_CONF]
    assert f"client-query-buffer-limit {64 * 1024 * 1024}" in file.splitlines()
    policy.apply(core_spec())
    wait_for(
        "the value from before",
        lambda: policy.directive(Role.CACHE, "client-query-buffer-limit") == initial,
        timeout=5,
    )
    policy.wait_ready()
    assert policy.lives() == lives


def test_a_value_that_redis_refuses_is_reported_in_its_words_and_the_last_good_one_stays(
    policy: Policy,
) -> None:
    lives = policy.lives()
    policy.apply(changed(CONFIG[Role.STATE], {"maxclients": "2000", "slowlog-max-len": "many"}))
    message = policy.wait_until("Ready", "False", "DirectiveRejected")
    assert "slowlog-max-len" in message
    assert policy.condition("Stalled")[0] == "True"
    rejected = policy.status["config"]["rejected"]
    assert [(item["instance"], item["key"]) for item in rejected] == [
        (names.server(policy.name, Role.STATE), "slowlog-max-len")
    ]
    assert "argument" in rejected[0]["reason"]
    assert policy.directive(Role.STATE, "slowlog-max-len") == "128"
    assert policy.condition("Enforced")[0] == "True", "Core goes on"
    policy.apply(core_spec())
    policy.wait_ready()
    assert not policy.status.get("config", {}).get("rejected")
    assert policy.lives() == lives


def test_a_foreign_config_set_is_taken_back_within_seconds(policy: Policy) -> None:
    """A directive of the operator and one of the user alike."""
    assert policy.redis(Role.STATE, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru") == "OK"
    assert policy.redis(Role.STATE, "CONFIG", "SET", "maxclients", "1500") == "OK"
    wait_for(
        "both to be taken back",
        lambda: (
            policy.directive(Role.STATE, "maxmemory-policy") == "noeviction"
            and policy.directive(Role.STATE, "maxclients") == "2000"
        ),
        timeout=6,
    )


def test_a_restart_class_directive_and_more_memory_roll_each_server_once(policy: Policy, core: Core) -> None:
    """One with a directive that Redis takes only at its start, one with a larger container."""
    lives, core_lives = policy.lives(), core.lives()
    spec = changed(CONFIG[Role.CACHE], {"lfu-decay-time": "10", "databases": "4"})
    spec["redis"]["managed"]["state"]["resources"]["requests"]["memory"] = "160Mi"
    spec["redis"]["managed"]["state"]["resources"]["limits"]["memory"] = "160Mi"
    policy.apply(spec)
    pending = wait_for(
        "the pending restart",
        lambda: policy.status.get("config", {}).get("pendingRestart"),
        timeout=10,
        every=0.05,
    )
    assert [(item["instance"], item["key"]) for item in pending] == [
        (names.server(policy.name, Role.CACHE), "databases")
    ]
    wait_for(
        "both servers to have been rolled",
        lambda: all(policy.lives().get(pod, old)[0] != old[0] for pod, old in lives.items()),
        timeout=START_SECONDS,
    )
    policy.wait_ready()
    policy.wait_enforced()
    assert not policy.status.get("config", {}).get("pendingRestart")
    assert policy.directive(Role.CACHE, "databases") == "4"
    assert policy.directive(Role.STATE, "maxmemory") == str(160 * 1024 * 1024 * 3 // 4)
    assert core.lives() == core_lives, "Core follows Redis without a restart"
    rolled = policy.lives()
    # Nothing else rolls afterwards, and no container restarted on the way.
    assert {count for _, count in rolled.values()} == {0}
    revisions = {
        role: policy.cluster.need("StatefulSet", policy.namespace, names.server(policy.name, role))
        for role in Role
    }
    assert all(
        item["status"]["currentRevision"] == item["status"]["updateRevision"] for item in revisions.values()
    )


def test_a_rotated_password_is_taken_by_every_process_without_a_lost_request(
    cluster: Cluster, policy: Policy, core: Core
) -> None:
    """The old one opens Redis until both pods have the new one; no pod restarts and no answer is an error."""
    old, lives, redis_lives = policy.password(names.USER_CORE), core.lives(), policy.lives()
    first, second = core.pair()
    cluster.merge(
        *("CachePolicy", policy.namespace, policy.name),
        {"metadata": {"annotations": {names.ANNOTATION_ROTATE: "once"}}},
    )
    wait_for("the new password", lambda: policy.password(names.USER_CORE) != old, timeout=20)
    for pod in core.pods():
        # The kubelet looks at a pod's volumes within a minute, and at once when the pod changes.
        cluster.merge(
            *("Pod", policy.namespace, pod["metadata"]["name"]),
            {"metadata": {"annotations": {"look": "now"}}},
        )

    degraded = []

    def shut_out() -> bool:
        for replica in (first, second):
            health = replica.http.get("/cache/health").json()
            degraded.extend(health["reasons"])
        return policy.redis(Role.STATE, "PING", user=names.USER_CORE, password=old) != "PONG"

    wait_for("the old one to be shut out", shut_out, timeout=120, every=0.5)
    assert not degraded
    assert policy.redis(Role.STATE, "PING", user=names.USER_CORE) == "PONG"
    policy.wait_enforced()
    assert (core.lives(), policy.lives()) == (lives, redis_lives)
    told = [event["reason"] for event in cluster.list("Event", policy.namespace)]
    assert {"RotationStarted", "RotationFinished"} <= set(told)


@pytest.mark.usefixtures("core")
def test_a_start_that_redis_would_refuse_is_found_in_a_trial_and_no_server_notices(
    cluster: Cluster, policy: Policy
) -> None:
    """An immutable directive is refused before its value is looked at, so it is tried in a pod of its own (rule 13)."""
    lives = policy.lives()
    policy.apply(changed(CONFIG[Role.CACHE], {"databases": "-5"}))
    message = policy.wait_until("Ready", "False", "DirectiveRejected", timeout=60)
    assert "databases: the server does not start with it: " in message
    assert "argument" in message.lower() or "invalid" in message.lower(), message
    (rejected,) = policy.status["config"]["rejected"]
    assert rejected["key"] == "databases"
    assert not policy.status["config"].get("pendingRestart")
    assert policy.condition("Stalled")[0] == "True"
    assert policy.lives() == lives
    assert policy.directive(Role.CACHE, "databases") == "16"
    # A good value beside it goes through, by one restart; the trial's pod goes.
    policy.apply(changed(CONFIG[Role.CACHE], {"databases": "8"}))
    policy.wait_ready()
    assert policy.directive(Role.CACHE, "databases") == "8"
    wait_for("the trials to be taken away", lambda: not trials(cluster, policy), timeout=20)
    policy.apply(core_spec())
    policy.wait_ready()
    policy.wait_enforced()


def trials(cluster: Cluster, policy: Policy) -> list[str]:
    selector = f"{names.LABEL_OWNER}={policy.name},{names.LABEL_COMPONENT}=trial"
    return [pod["metadata"]["name"] for pod in cluster.list("Pod", policy.namespace, selector)]
