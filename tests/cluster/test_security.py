"""Secrets stay in Secrets, pods are restricted, and nobody may do more than the work needs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from tests.cluster.core import SELECTOR, SESSION, Core
from tests.cluster.installation import OPERATOR, SYSTEM, Operator, core_spec
from tests.cluster.kube import Cluster, Object, wait_for
from tests.cluster.policy import Policy
from tests.policies import with_value

from cachepolicy import names
from cachepolicy.names import Role

ACCOUNT = f"system:serviceaccount:{SYSTEM}:{OPERATOR}"


def secret_texts(policy: Policy) -> Iterator[str]:
    """Every secret value, plain and as a Secret holds it."""
    words = {names.FILE_OPERATOR_PASSWORD, names.FILE_PASSWORD, names.FILE_HMAC_KEY, names.FILE_ADMIN_TOKEN}
    for entries in policy.secrets().values():
        for key in words & set(entries):
            yield entries[key]
            yield base64.b64encode(entries[key].encode()).decode()


def test_no_secret_is_seen_anywhere_but_in_secrets(
    cluster: Cluster, policy: Policy, core: Core, operator: Operator
) -> None:
    """Not in ConfigMaps, Events, status, pod specs or logs, after work and after a refusal."""
    for replica in core.pair():
        replica.ask("Anything?")
        replica.request("PUT", SESSION, json={"n": 1})
        replica.request("POST", "/cache/clear", key="wrong", json={"all": True})
    policy.redis(Role.STATE, "ACL", "SETUSER", names.USER_CORE, "resetpass", ">wrong")
    namespace, owned = policy.namespace, f"{names.LABEL_OWNER}={policy.name}"
    places = {
        kind: json.dumps(list(cluster.list(kind, namespace)))
        for kind in ("CachePolicy", "ConfigMap", "Event", "Pod", "StatefulSet", "Service", "Deployment")
    }
    places |= {
        "log of the operator": operator.logs(),
        "log of Core": cluster.logs(namespace, SELECTOR),
        "log of Redis": cluster.logs(namespace, owned),
        "metrics of the operator": metrics(cluster, operator),
        "arguments in Redis": cluster.execute(
            namespace, policy.pod_name(Role.STATE), "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/1/environ"
        ),
    }
    texts = list(secret_texts(policy))
    assert len(texts) == 8
    found = [place for place, content in places.items() for text in texts if text in content]
    assert not found, f"a secret is in {found}"
    empty = [place for place, content in places.items() if len(content) < 10]
    assert not empty, f"nothing was looked at in {empty}"
    wait_for(
        "Core's password to be right again",
        lambda: policy.redis(Role.STATE, "PING", user=names.USER_CORE) == "PONG",
        timeout=10,
    )


def metrics(cluster: Cluster, operator: Operator) -> str:
    pod = operator.pods()[0]
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    path = f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}:{ports['metrics']}/proxy/metrics"
    answer = cluster.http.get(path)
    assert answer.is_success, answer.text[:500]
    assert "cachepolicy_reconciles_total" in answer.text
    return answer.text


def test_core_is_given_the_core_users_password_and_no_other(policy: Policy, core: Core) -> None:
    """What is not mounted cannot leak: neither the ACL file nor the operator's password is."""
    pod = core.pods()[0]
    mounted = policy.cluster.execute(
        core.namespace, pod["metadata"]["name"], "ls", "/var/run/cachepolicy"
    ).split()
    assert sorted(mounted) == sorted(
        [
            names.FILE_POLICY,
            names.FILE_USERNAME,
            names.FILE_PASSWORD,
            names.FILE_HMAC_KEY,
            names.FILE_ADMIN_TOKEN,
        ]
    )
    assert names.redis_auth_secret(policy.name) not in json.dumps(pod["spec"])
    assert policy.password(names.USER_OPERATOR) not in policy.secret(names.core_secret(policy.name)).values()


def test_every_pod_meets_the_restricted_standard(cluster: Cluster, policy: Policy, core: Core) -> None:
    """The namespace enforces it, so they would not run otherwise; and what it does not ask for is there too."""
    namespace = cluster.need("Namespace", "", policy.namespace)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    operator_pods = cluster.list("Pod", SYSTEM, f"app.kubernetes.io/name={OPERATOR}")
    for pod in (*cluster.list("Pod", policy.namespace), *operator_pods):
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, pod["metadata"]["name"]
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        if not pod["metadata"]["name"].startswith(OPERATOR):
            assert pod["spec"]["automountServiceAccountToken"] is False, pod["metadata"]["name"]


@pytest.mark.parametrize(
    ("user", "command"),
    [
        (names.USER_CORE, ("CONFIG", "GET", "*")),
        (names.USER_CORE, ("ACL", "LIST")),
        (names.USER_CORE, ("FLUSHALL",)),
        (names.USER_CORE, ("KEYS", "*")),
        (names.USER_CORE, ("REPLICAOF", "NO", "ONE")),
        (names.USER_CORE, ("MODULE", "LIST")),
        (names.USER_CORE, ("FUNCTION", "LIST")),
        (names.USER_CORE, ("SHUTDOWN",)),
        (names.USER_CORE, ("SET", "cpctl:{prefix}:policy", "x")),
        (names.USER_CORE, ("GET", "elsewhere:key")),
        (names.USER_OPERATOR, ("SET", "{prefix}:s:x", "1")),
        (names.USER_OPERATOR, ("FLUSHALL",)),
        (names.USER_OPERATOR, ("EVAL", "return 1", "0")),
        (names.USER_PROBE, ("GET", "{prefix}:epoch")),
        (names.USER_PROBE, ("INFO",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_redis_user_may_not_do_what_it_does_not_need(
    policy: Policy, user: str, command: tuple[str, ...]
) -> None:
    prefix = policy.document["redis"]["keyPrefix"]
    answer = policy.redis(Role.STATE, *(part.format(prefix=prefix) for part in command), user=user)
    assert "NOPERM" in answer, answer


def test_nobody_gets_into_redis_without_a_password(policy: Policy) -> None:
    for role in Role:
        cli = 'exec "$(command -v redis-cli || command -v valkey-cli)" PING'
        answer = policy.cluster.execute(policy.namespace, policy.pod_name(role), "sh", "-c", cli)
        assert "NOAUTH" in answer


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("list", "secrets"),
        ("watch", "secrets"),
        ("update", "cachepolicies.cache.masterclaw.io"),
        ("patch", "cachepolicies.cache.masterclaw.io"),
        ("delete", "cachepolicies.cache.masterclaw.io"),
        ("create", "pods/exec"),
        ("get", "pods/log"),
        ("delete", "persistentvolumeclaims"),
        ("create", "deployments.apps"),
        ("delete", "namespaces"),
        ("list", "nodes"),
        ("create", "clusterroles.rbac.authorization.k8s.io"),
        ("create", "serviceaccounts/token"),
        ("update", "customresourcedefinitions.apiextensions.k8s.io"),
        ("impersonate", "users"),
    ],
)
@pytest.mark.usefixtures("operator")
def test_the_operator_may_not_do_what_it_does_not_need(cluster: Cluster, verb: str, resource: str) -> None:
    assert not can_i(cluster, verb, resource), f"the operator may {verb} {resource}"


@pytest.mark.usefixtures("operator")
def test_the_operator_may_do_what_it_needs(cluster: Cluster) -> None:
    """Otherwise the refusals above would prove nothing."""
    assert can_i(cluster, "get", "secrets")
    assert can_i(cluster, "update", "cachepolicies.cache.masterclaw.io/status")


def can_i(cluster: Cluster, verb: str, resource: str) -> bool:
    """What ``kubectl auth can-i --as`` asks, in all namespaces."""
    kind, _, subresource = resource.partition("/")
    plural, _, group = kind.partition(".")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    content = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "resourceAttributes": attributes},
    }
    answer = cluster.http.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", json=content)
    assert answer.is_success, answer.text
    return bool(answer.json()["status"]["allowed"])


def bystander(policy: Policy, name: str) -> Object:
    """A pod in the policy's namespace that has nothing to do with it, with the tools of Redis's image."""
    image = policy.redis_pods()[0]["spec"]["containers"][0]["image"]
    container = {
        "name": "shell",
        "image": image,
        "command": ["sleep", "600"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "metadata": {"name": name, "namespace": policy.namespace, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 999,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }


def test_redis_admits_core_and_those_named_and_nobody_else(cluster: Cluster, policy: Policy) -> None:
    """Core reports through the wall the whole time. Needs a network plug-in that enforces NetworkPolicies."""
    name = "bystander"
    cluster.create("Pod", bystander(policy, name))
    wait_for(
        "the bystander to run",
        lambda: cluster.need("Pod", policy.namespace, name)["status"].get("phase") == "Running",
        timeout=30,
    )
    hosts = [f"{names.server(policy.name, role)}.{policy.namespace}.svc" for role in Role]

    def answers() -> list[str]:
        """What an unauthenticated PING gets from each server, empty where nobody answers."""
        ask = 'timeout 2 "$(command -v redis-cli || command -v valkey-cli)" -h "$0" PING 2>&1 || true'
        return [cluster.execute(policy.namespace, name, "sh", "-c", ask, host) for host in hosts]

    def reached() -> bool:
        found = answers()
        assert all("NOAUTH" in answer for answer in found), found
        return True

    def walled_off() -> bool:
        found = answers()
        assert not any("NOAUTH" in answer for answer in found), found
        return True

    try:
        wait_for("the wall", walled_off, timeout=20)
        policy.wait_enforced()
        spec = core_spec()
        peer = {"podSelector": {"matchLabels": {"app": name}}}
        policy.apply(with_value("redis.managed.networkPolicy.extraFrom", [peer], spec))
        wait_for("a way in", reached, timeout=20)
        policy.apply(with_value("redis.managed.networkPolicy.extraFrom", [], spec))
        wait_for("the wall again", walled_off, timeout=20)
        policy.apply(with_value("redis.managed.networkPolicy.enabled", False, spec))
        wait_for("no wall at all", reached, timeout=20)
        assert cluster.get("NetworkPolicy", policy.namespace, names.network_policy(policy.name)) is None
        policy.apply(spec)
        wait_for("the wall once more", walled_off, timeout=20)
        told = [event["reason"] for event in cluster.list("Event", policy.namespace)]
        assert "NetworkPolicyCreated" in told, "closing an open server is told"
        policy.wait_enforced()
    finally:
        cluster.delete("Pod", policy.namespace, name, grace=0)
