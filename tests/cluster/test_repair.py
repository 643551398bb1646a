"""What was made for a policy stays as it was made: deleted or edited, it is put right."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.cluster.installation import Operator, core_spec
from tests.cluster.kube import Cluster, Object, wait_for
from tests.cluster.policy import START_SECONDS, Policy

from cachepolicy import names
from cachepolicy.names import Role

STATE, CACHE = names.server("fixed", Role.STATE), names.server("fixed", Role.CACHE)


@pytest.fixture(scope="module")
def fixed(cluster: Cluster, operator: Operator, new_namespace: Callable[[str], str]) -> Iterator[Policy]:
    """A policy with both servers and no Core."""
    namespace = new_namespace("repair")
    cluster.namespaces.add(namespace)
    policy = Policy(cluster, namespace, "fixed")
    policy.apply(core_spec())
    policy.wait_ready()
    yield policy
    cluster.namespaces.discard(namespace)
    cluster.delete("Namespace", "", namespace)


def content(obj: Object) -> Object:
    """An object without what every write or start changes."""
    metadata = {
        key: value
        for key, value in obj["metadata"].items()
        if key in ("name", "labels", "annotations", "ownerReferences")
    }
    dropped = ("metadata", "status")
    kept = {key: value for key, value in obj.items() if key not in dropped}
    if obj.get("kind") == "Service":
        kept["spec"] = {
            key: value for key, value in kept["spec"].items() if key not in ("clusterIP", "clusterIPs")
        }
    return kept | {"metadata": metadata}


KINDS = ("ConfigMap", "NetworkPolicy", "Service", "StatefulSet")


@pytest.mark.parametrize("kind", KINDS)
def test_deleted_objects_come_back_as_they_were(fixed: Policy, kind: str) -> None:
    before = {item["metadata"]["name"]: item for item in fixed.owned() if item["kind"] == kind}
    assert before
    for name in before:
        assert fixed.cluster.delete(kind, fixed.namespace, name)

    def all_new() -> bool:
        found = {item["metadata"]["name"]: item for item in fixed.owned() if item["kind"] == kind}
        missing = set(before) - set(found)
        assert not missing, f"{sorted(missing)} are not back"
        old = [name for name in before if found[name]["metadata"]["uid"] == before[name]["metadata"]["uid"]]
        assert not old, f"{old} are still the old ones"
        return True

    wait_for(f"every {kind} to be made anew", all_new, timeout=START_SECONDS if kind == "StatefulSet" else 5)
    fixed.wait_ready()
    after = {item["metadata"]["name"]: item for item in fixed.owned() if item["kind"] == kind}
    assert {name: content(item) for name, item in after.items()} == {
        name: content(item) for name, item in before.items()
    }


def _container(change: Object) -> Object:
    return {"spec": {"template": {"spec": change}}}


EDITS: tuple[tuple[str, str, Object], ...] = (
    ("ConfigMap", names.core_config_map("fixed"), {"data": {names.FILE_POLICY: "{}"}}),
    ("ConfigMap", names.redis_config_map("fixed", Role.STATE), {"data": {names.FILE_REDIS_CONF: "port 1\n"}}),
    ("ConfigMap", names.redis_config_map("fixed", Role.CACHE), {"metadata": {"labels": None}}),
    ("ConfigMap", names.core_config_map("fixed"), {"metadata": {"ownerReferences": None}}),
    ("Service", STATE, {"spec": {"selector": {names.LABEL_COMPONENT: "cache"}}}),
    ("Service", CACHE, {"spec": {"ports": [{"name": "redis", "port": 6380, "protocol": "TCP"}]}}),
    ("Service", names.headless_service("fixed", Role.STATE), {"spec": {"publishNotReadyAddresses": False}}),
    ("StatefulSet", STATE, {"spec": {"replicas": 0}}),
    ("StatefulSet", CACHE, {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}}}}),
    ("StatefulSet", CACHE, {"metadata": {"labels": {names.LABEL_OWNER: None}}}),
)


@pytest.mark.parametrize(
    ("kind", "name", "patch"), EDITS, ids=[f"{kind} {name} {patch}"[:80] for kind, name, patch in EDITS]
)
def test_an_edited_field_is_put_right(fixed: Policy, kind: str, name: str, patch: Object) -> None:
    before = fixed.cluster.need(kind, fixed.namespace, name)
    edited = fixed.cluster.merge(kind, fixed.namespace, name, patch)
    assert content(edited) != content(before), "the edit changed nothing"

    def as_before() -> bool:
        live = fixed.cluster.need(kind, fixed.namespace, name)
        assert content(live) == content(before), _difference(content(live), content(before))
        return True

    wait_for(f"{kind} {name} to be put right", as_before, timeout=5, every=0.05)


def test_an_edited_pod_template_is_put_right_and_the_pod_with_it(fixed: Policy) -> None:
    """Also what was only added: an argument would be read by Redis."""
    added: Object = {
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "redis", "args": ["--port", "1"], "env": [{"name": "A", "value": "b"}]}],
    }
    before = fixed.cluster.need("StatefulSet", fixed.namespace, CACHE)["spec"]["template"]["spec"]
    path = f"/apis/apps/v1/namespaces/{fixed.namespace}/statefulsets/{CACHE}"
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    answer = fixed.cluster.http.patch(path, json=_container(added), headers=headers)
    assert answer.is_success, answer.text

    def as_before() -> bool:
        spec = fixed.cluster.need("StatefulSet", fixed.namespace, CACHE)["spec"]["template"]["spec"]
        assert spec.get("tolerations") == before.get("tolerations"), spec["tolerations"]
        assert not spec["containers"][0].get("args"), spec["containers"][0]["args"]
        return bool(spec["containers"][0]["command"] == before["containers"][0]["command"])

    wait_for("the template to be put right", as_before, timeout=5, every=0.05)
    fixed.wait_ready()
    assert fixed.redis(Role.CACHE, "PING") == "PONG"


def test_edited_secrets_are_put_right(fixed: Policy) -> None:
    """Secrets are never watched; a round of single reads, 6 s for a policy, finds it. Passwords stay."""
    before = fixed.secrets()
    uri = base64.b64encode(b"redis://elsewhere").decode()
    secret = names.core_secret(fixed.name)
    fixed.cluster.merge("Secret", fixed.namespace, secret, {"data": {names.FILE_STATE_URI: uri}})
    wait_for("the Secret to be put right", lambda: fixed.secrets() == before, timeout=30, every=0.5)


def test_the_binding_leads_to_redis_and_comes_back_when_it_is_deleted(fixed: Policy) -> None:
    """Service Binding: what ``status.binding.name`` names holds all that a client needs."""
    name = fixed.status["binding"]["name"]
    before = fixed.secret(name)
    assert before["type"] == "redis"
    assert fixed.redis(Role.STATE, "PING", user=before["username"], password=before["password"]) == "PONG"
    assert fixed.cluster.delete("Secret", fixed.namespace, name)
    wait_for("the binding to be back", lambda: fixed.secret(name) == before, timeout=30, every=0.5)


def test_deleted_secrets_are_made_anew_and_the_pods_roll_once(fixed: Policy) -> None:
    before, lives = fixed.secrets(), fixed.lives()
    for name in before:
        assert fixed.cluster.delete("Secret", fixed.namespace, name)
    wait_for(
        "the Secrets and the pods to be new",
        lambda: (
            set(fixed.secrets()) == set(before)
            and all(fixed.lives().get(pod, old)[0] != old[0] for pod, old in lives.items())
        ),
        timeout=START_SECONDS,
        every=0.5,
    )
    fixed.wait_ready()
    after = fixed.secrets()
    auth, core = names.redis_auth_secret(fixed.name), names.core_secret(fixed.name)
    assert after[auth][names.FILE_OPERATOR_PASSWORD] != before[auth][names.FILE_OPERATOR_PASSWORD]
    assert after[core][names.FILE_PASSWORD] != before[core][names.FILE_PASSWORD]
    assert fixed.redis(Role.STATE, "PING", user=names.USER_CORE) == "PONG"
    assert {count for _, count in fixed.lives().values()} == {0}
    events = [
        event["reason"]
        for event in fixed.cluster.list("Event", fixed.namespace)
        if event["involvedObject"]["name"] == fixed.name
    ]
    assert "CredentialsRecreated" in events


def test_a_password_changed_in_redis_is_taken_back(fixed: Policy) -> None:
    """It may be back before one can look: so it is the foreign password that must be refused in the end."""
    for role in Role:
        assert fixed.redis(role, "ACL", "SETUSER", names.USER_CORE, "resetpass", ">wrong") == "OK"

    def right_again() -> bool:
        return all(
            fixed.redis(role, "PING", user=names.USER_CORE) == "PONG"
            and fixed.redis(role, "PING", user=names.USER_CORE, password="wrong") != "PONG"
            for role in Role
        )

    wait_for("Core's password to be right again, and no other", right_again, timeout=10)


def test_a_server_that_no_longer_knows_the_operator_is_reported_and_a_restart_is_enough(
    fixed: Policy, operator: Operator
) -> None:
    """Changed while it was away: a running operator puts that right over the connection that it has."""
    with operator.away():
        answer = fixed.redis(Role.CACHE, "ACL", "SETUSER", names.USER_OPERATOR, "resetpass", ">wrong")
    assert answer == "OK"
    message = fixed.wait_until("RedisAvailable", "False", "WrongPassword", timeout=40)
    assert fixed.pod_name(Role.CACHE) in message
    assert "wrong" not in message.replace("wrong password", "")
    fixed.cluster.delete("Pod", fixed.namespace, fixed.pod_name(Role.CACHE))
    fixed.wait_ready()


def test_a_paused_policy_is_left_as_it_is(fixed: Policy) -> None:
    fixed.apply(core_spec() | {"paused": True})
    wait_for("the pause to be seen", fixed.conditions, timeout=10)
    fixed.cluster.merge("Service", fixed.namespace, STATE, {"spec": {"sessionAffinity": "ClientIP"}})
    fixed.cluster.delete("ConfigMap", fixed.namespace, names.redis_config_map(fixed.name, Role.CACHE))
    message = fixed.wait_until("ConfigApplied", "False", "Paused")
    assert "spec.paused" in message
    assert fixed.cluster.need("Service", fixed.namespace, STATE)["spec"]["sessionAffinity"] == "ClientIP"
    fixed.apply(core_spec())
    fixed.wait_ready()
    assert fixed.cluster.need("Service", fixed.namespace, STATE)["spec"]["sessionAffinity"] == "None"
    assert fixed.cluster.get("ConfigMap", fixed.namespace, names.redis_config_map(fixed.name, Role.CACHE))


def _difference(found: Any, wanted: Any, path: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted({*found, *wanted})
        parts = [_difference(found.get(key), wanted.get(key), f"{path}.{key}") for key in keys]
        return "; ".join(part for part in parts if part)
    return "" if found == wanted else f"{path}: {str(found)[:200]} instead of {str(wanted)[:200]}"
