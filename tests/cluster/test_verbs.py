"""``kubectl-cachepolicy`` against a cluster, as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.installation import Operator
from tests.cluster.kube import Cluster, wait_for
from tests.cluster.policy import START_SECONDS, Policy
from tests.policies import Spec, with_value

from cachepolicy import names
from cachepolicy.names import Role

PROGRAM = Path(sys.executable).with_name("kubectl-cachepolicy")
SPEC: Spec = {
    "redis": {"managed": {"state": {"storage": {"size": "64Mi"}}}},
    "sessions": {},
    "embeddingCache": {},
}


@pytest.fixture(scope="module")
def policy(cluster: Cluster, operator: Operator, new_namespace: Callable[[str], str]) -> Iterator[Policy]:
    namespace = new_namespace("verbs")
    found = Policy(cluster, namespace, "handled")
    found.apply(SPEC)
    found.wait_ready()
    yield found
    cluster.delete("Namespace", "", namespace)


def run(policy: Policy, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, verb, policy.name, "-n", policy.namespace, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def ok(policy: Policy, verb: str, *arguments: str) -> str:
    done = run(policy, verb, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_status_shows_what_there_is(policy: Policy) -> None:
    told = ok(policy, "status")
    assert told.startswith(f"{policy.namespace}/{policy.name}  generation ")
    assert "StatefulSet handled-state" in told
    assert "NetworkPolicy handled-redis" in told
    assert "PersistentVolumeClaim data-handled-state-0" in told
    content = json.loads(ok(policy, "status", "-o", "json"))
    assert content["status"]["redis"]["state"]["ready"] == "1/1"
    hidden = [value for entries in policy.secrets().values() for value in entries.values() if len(value) > 20]
    assert hidden
    assert not [value for value in hidden if value in told]


def test_a_policy_that_is_not_there_is_named(policy: Policy) -> None:
    done = subprocess.run(
        [PROGRAM, "status", "nobody", "-n", policy.namespace], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "there is no CachePolicy nobody in this namespace (-n names another)\n"


def test_paused_and_resumed(policy: Policy) -> None:
    assert "changes nothing" in ok(policy, "pause")
    assert policy.object["spec"]["paused"] is True
    assert "again" in ok(policy, "resume")
    assert "paused" not in policy.object["spec"]
    policy.wait_ready()


def test_hibernated_and_woken_with_its_data(policy: Policy) -> None:
    """Claims stay, and a server with storage comes back with what it had."""
    key = f"{policy.namespace}/{policy.name}:s:kept"
    assert policy.redis(Role.STATE, "SET", key, "yes", "EX", "600", user=names.USER_CORE) == "OK"
    ok(policy, "hibernate")
    wait_for("no Redis pods", lambda: not policy.redis_pods(), timeout=60)
    policy.wait_until("Ready", "False", "Hibernated")
    assert run(policy, "status").returncode == 1
    assert not {"Reconciling", "Stalled"} & set(policy.conditions())
    assert policy.cluster.need("StatefulSet", policy.namespace, names.server(policy.name, Role.STATE))
    ok(policy, "wake")
    policy.wait_ready(timeout=START_SECONDS)
    assert policy.redis(Role.STATE, "GET", key, user=names.USER_CORE) == "yes"


def test_a_rotation_replaces_the_password_and_restarts_nothing(policy: Policy) -> None:
    """Without a Core there is nobody to wait for; with one see test_changes.py."""
    old, lives = policy.password(names.USER_CORE), policy.lives()
    assert "no connection is lost" in ok(policy, "rotate")
    wait_for("the new password", lambda: policy.password(names.USER_CORE) != old, timeout=20)
    wait_for(
        "the old one to be shut out",
        lambda: policy.redis(Role.STATE, "PING", user=names.USER_CORE, password=old) != "PONG",
        timeout=20,
    )
    assert policy.redis(Role.STATE, "PING", user=names.USER_CORE) == "PONG"
    assert policy.secret(policy.status["binding"]["name"])["password"] == policy.password(names.USER_CORE)
    assert policy.lives() == lives
    assert "rotating" not in policy.status["core"]


def test_purge_changes_one_scope(policy: Policy) -> None:
    assert "embeddings" in ok(policy, "purge", "--kind", "embeddings")
    first = policy.object["spec"]["purge"]
    assert list(first) == ["kinds"]
    ok(policy, "purge", "--tenant", "acme")
    assert set(policy.object["spec"]["purge"]) == {"kinds", "tenants"}
    wait_for("the document to say so", lambda: "acme" in policy.document["purge"]["tenants"], timeout=10)


def planned(policy: Policy, tmp_path: Path, spec: Spec) -> subprocess.CompletedProcess[str]:
    metadata = {"name": policy.name, "namespace": policy.namespace}
    content = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": spec}
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(content))
    return subprocess.run(
        [PROGRAM, "plan", "-f", file], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_plan_tells_every_change_before_it_happens(policy: Policy, tmp_path: Path) -> None:
    """And is what then happens."""
    before = policy.versions(), policy.lives()
    spec = with_value("redis.managed.cache.resources.limits", {"memory": "320Mi"}, SPEC)
    spec = with_value("redis.managed.state.storage.size", "96Mi", spec)
    done = planned(policy, tmp_path, spec)
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert any(line.startswith("Restart   StatefulSet handled-cache  spec.template") for line in lines), lines
    assert any("PersistentVolumeClaim data-handled-state-0" in line for line in lines), lines
    assert not [line for line in lines if "handled-state " in line and line.startswith("Restart")], lines
    assert (policy.versions(), policy.lives()) == before, "a plan changes nothing"
    refused = planned(policy, tmp_path, with_value("redis.managed.state.storage.size", "1Mi", SPEC))
    assert refused.returncode == 1
    assert "storage.size can only grow" in refused.stderr


def test_a_paused_policy_says_what_waits(policy: Policy) -> None:
    policy.apply(
        {**with_value("redis.managed.cache.resources.limits", {"memory": "320Mi"}, SPEC), "paused": True}
    )
    found = wait_for("the plan", lambda: policy.status.get("plan"), timeout=15)
    assert "Restart" in {item["effect"] for item in found or ()}, found
    policy.apply(SPEC)
    policy.wait_ready()
    assert "plan" not in policy.status


def test_a_gitops_tool_is_named_before_its_object_is_changed(policy: Policy) -> None:
    """Applied under Argo CD's name, as its server-side apply does."""
    metadata = {"name": policy.name, "namespace": policy.namespace}
    content = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": metadata,
        "spec": {**SPEC, "paused": False},
    }
    policy.cluster.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--field-manager=argocd-controller", "-f", "-"),
        data=json.dumps(content),
    )
    done = run(policy, "pause")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: Argo CD manages spec.paused of handled and will set it back")
    ok_again = run(policy, "resume")
    assert ok_again.returncode == 0
