"""Objects of a CachePolicy: which there are, in which order, and what each must hold."""

from __future__ import annotations

import base64
import copy
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from cachepolicy import names
from cachepolicy.document import build_document, read_document
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy_operator.kinds import kind_of
from cachepolicy_operator.resources import (
    LiveDirective,
    RenderInputs,
    ServerConfig,
    build_objects,
    endpoint_url,
    read_live,
    read_restart,
)
from cachepolicy_operator.resources.credentials import Credentials
from cachepolicy_operator.resources.labels import selector
from cachepolicy_operator.resources.network_policy import OPERATOR_LABELS
from cachepolicy_operator.resources.statefulset import claim_name, grace_period

Json = dict[str, Any]
BOTH: Json = {"redis": {"managed": {}}, "sessions": {}, "responseCache": {}}
DISK: Json = {**BOTH, "redis": {"managed": {"state": {"storage": {"size": "1Gi", "className": "fast"}}}}}
MAXCLIENTS = LiveDirective("2000", "2000", "10000")


def credentials() -> Credentials:
    counter = itertools.count(1)
    return Credentials.generate(lambda: f"made-up-token-{next(counter)}")


def inputs_of(spec: Json = BOTH, **servers: ServerConfig) -> RenderInputs:
    parsed = CachePolicySpec.model_validate(spec)
    endpoints = {role: endpoint_url("ns", "core", role) for role in parsed.roles}
    document = build_document(
        namespace="ns", name="core", uid="u1", spec=parsed, endpoints=endpoints, previous=None, now_ms=5
    )
    by_role = {Role(role): config for role, config in servers.items()}
    return RenderInputs(
        "ns", "core", "u1", parsed, "example.com/redis:8", credentials(), document, by_role, "ops"
    )


def built(spec: Json = BOTH, **servers: ServerConfig) -> dict[str, Json]:
    """Objects by `Kind/name`."""
    objects = build_objects(inputs_of(spec, **servers))
    return {f"{obj['kind']}/{obj['metadata']['name']}": obj for obj in objects}


def pod(obj: Json) -> Json:
    return dict(obj["spec"]["template"]["spec"])


def container(obj: Json) -> Json:
    (only,) = pod(obj)["containers"]
    return dict(only)


def entries(secret: Json) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def test_a_policy_with_both_kinds_has_two_servers_and_what_core_mounts() -> None:
    """What a pod mounts stands before the pod, so that it starts at the first try."""
    assert list(built(BOTH)) == [
        "Secret/core-redis-auth",
        "NetworkPolicy/core-redis",
        "ConfigMap/core-state-config",
        "Service/core-state-headless",
        "Service/core-state",
        "StatefulSet/core-state",
        "ConfigMap/core-cache-config",
        "Service/core-cache-headless",
        "Service/core-cache",
        "StatefulSet/core-cache",
        "Secret/core-core",
        "Secret/core-core-keys",
        "Secret/core-binding",
        "ConfigMap/core-core",
    ]


@pytest.mark.parametrize(
    ("section", "server"),
    [("sessions", "StatefulSet/core-state"), ("embeddingCache", "StatefulSet/core-cache")],
)
def test_a_server_exists_only_where_a_section_needs_it(section: str, server: str) -> None:
    """Two servers cost memory; one section needs one."""
    objects = built({"redis": {"managed": {}}, section: {}})
    assert [name for name in objects if name.startswith("StatefulSet")] == [server]


@pytest.mark.parametrize("name", list(built(DISK, state=ServerConfig(restart={"databases": "4"}))))
def test_every_object_is_ours_by_owner_and_labels(name: str) -> None:
    """Deleting the policy deletes them, and nothing of ours looks like a consumer."""
    obj = built(DISK, state=ServerConfig(restart={"databases": "4"}))[name]
    (owner,) = obj["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == (
        "CachePolicy",
        "core",
        "u1",
        True,
    )
    assert obj["metadata"]["labels"][names.LABEL_OWNER] == "core"
    assert obj["metadata"]["labels"][names.LABEL_MANAGED_BY] == names.FIELD_MANAGER
    assert obj["metadata"]["namespace"] == "ns"
    assert names.LABEL_POLICY not in json.dumps(obj.get("spec", {}).get("template", {}))
    assert kind_of(obj).name == obj["kind"]


@pytest.mark.parametrize("role", list(Role))
def test_the_pod_meets_pod_security_restricted(role: Role) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, with a read-only root beside it."""
    obj = built()[f"StatefulSet/core-{role}"]
    security = pod(obj)["securityContext"]
    assert (security["runAsNonRoot"], security["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    assert security["fsGroupChangePolicy"] == "OnRootMismatch"
    inner = container(obj)["securityContext"]
    assert inner["allowPrivilegeEscalation"] is False
    assert inner["readOnlyRootFilesystem"] is True
    assert inner["capabilities"] == {"drop": ["ALL"], "add": []}
    assert pod(obj)["automountServiceAccountToken"] is False
    assert {
        volume["mountPath"] for volume in container(obj)["volumeMounts"] if not volume.get("readOnly")
    } == {
        "/data",
        "/tmp",
    }
    assert "initContainers" not in pod(obj)


def test_fields_whose_addition_would_change_redis_are_owned_although_empty() -> None:
    """Server-side apply takes back only what it owns."""
    obj = built()["StatefulSet/core-state"]
    assert (container(obj)["args"], container(obj)["envFrom"]) == ([], [])
    assert (pod(obj)["tolerations"], pod(obj)["nodeSelector"]) == ([], {})
    assert built()["Service/core-state"]["spec"]["externalIPs"] == []


def test_redis_is_started_with_our_files_only() -> None:
    """Places are arguments, so that the files are the same on a laptop; either binary will do."""
    command = container(built()["StatefulSet/core-state"])["command"]
    assert command[:2] == ["sh", "-c"]
    assert "redis-server || command -v valkey-server" in command[2]
    assert command[3:] == [
        "redis",
        "/cachepolicy/config/redis.conf",
        "--dir",
        "/data",
        "--aclfile",
        "/cachepolicy/auth/users.acl",
    ]


def test_services_select_exactly_the_pods_of_their_server() -> None:
    """The selector is the StatefulSet's; it never changes."""
    objects = built()
    for role in Role:
        labels = objects[f"StatefulSet/core-{role}"]["spec"]["template"]["metadata"]["labels"]
        wanted = selector("core", role)
        assert wanted.items() <= labels.items()
        assert objects[f"StatefulSet/core-{role}"]["spec"]["selector"] == {"matchLabels": wanted}
        for name in (f"Service/core-{role}", f"Service/core-{role}-headless"):
            assert objects[name]["spec"]["selector"] == wanted


def test_the_headless_service_gives_names_before_pods_are_ready() -> None:
    """And the other one leads clients to ready pods only (rule 21)."""
    headless = built()["Service/core-state-headless"]["spec"]
    assert (headless["clusterIP"], headless["publishNotReadyAddresses"]) == ("None", True)
    assert built()["Service/core-state"]["spec"]["publishNotReadyAddresses"] is False
    assert built()["StatefulSet/core-state"]["spec"]["serviceName"] == "core-state-headless"


def test_storage_becomes_a_claim_that_outlives_the_policy() -> None:
    """Retained in both cases; without storage an emptyDir with a bound."""
    obj = built(DISK)["StatefulSet/core-state"]
    (claim,) = obj["spec"]["volumeClaimTemplates"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "fast",
    }
    assert set(obj["spec"]["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    assert claim_name("core", Role.STATE) == "data-core-state-0"
    assert "data" not in [volume["name"] for volume in pod(obj)["volumes"]]
    memory_only = built()["StatefulSet/core-state"]
    assert "volumeClaimTemplates" not in memory_only["spec"]
    (data,) = (volume for volume in pod(memory_only)["volumes"] if volume["name"] == "data")
    assert data == {"name": "data", "emptyDir": {"sizeLimit": "64Mi"}}


def test_the_grace_period_covers_a_snapshot_of_all_data() -> None:
    """Rule 5: waiting for replicas, plus writing everything at a slow disk's pace."""
    assert grace_period(100 * 1024**2, disk=True) == 30
    assert grace_period(10 * 1024**3, disk=True) == 10 + 10 + 512
    assert grace_period(10 * 1024**3, disk=False) == 30


def test_a_live_directive_changes_the_config_map_and_no_pod() -> None:
    """Rule 15: the template depends on restart-class directives only."""
    before, after = built(), built(BOTH, state=ServerConfig(live={"maxclients": MAXCLIENTS}))
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["ConfigMap/core-state-config"]
    config = after["ConfigMap/core-state-config"]
    assert "maxclients 2000\n" in config["data"]["redis.conf"]
    assert read_live(config, names.FILE_LIVE) == {"maxclients": MAXCLIENTS}


def test_a_restart_directive_rolls_the_pods_through_a_config_map_named_by_its_content() -> None:
    """Immutable, mounted, included, and of the same name for the same directives."""
    first = built(BOTH, state=ServerConfig(restart={"databases": "4", "io-threads": "2"}))
    again = built(BOTH, state=ServerConfig(restart={"io-threads": "2", "databases": "4"}))
    other = built(BOTH, state=ServerConfig(restart={"databases": "5", "io-threads": "2"}))
    (name,) = (key for key in first if "-restart-" in key)
    assert first == again
    assert name not in other
    assert first[name]["immutable"] is True
    assert first[name]["data"]["restart.conf"] == "databases 4\nio-threads 2\n"
    assert read_restart(first[name]) == {"databases": "4", "io-threads": "2"}
    assert container(first["StatefulSet/core-state"])["command"][-2:] == [
        "--include",
        "/cachepolicy/restart/restart.conf",
    ]
    assert first["StatefulSet/core-cache"] == built()["StatefulSet/core-cache"]


@pytest.mark.parametrize(
    "broken", [None, {}, {"data": {}}, {"data": {"live.json": "{", "restart.json": "[1]"}}]
)
def test_what_somebody_broke_in_a_config_map_counts_as_not_there(broken: Json | None) -> None:
    """It is written anew from the spec; a reconcile must not stumble over it."""
    assert read_live(broken, names.FILE_LIVE) == {}
    assert read_restart(broken) == {}


def test_new_credentials_change_the_template_once() -> None:
    """The generation is an annotation of the pod template: the roll loads the new ACL file."""
    obj = built()["StatefulSet/core-state"]
    annotation = obj["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_CREDENTIALS]
    assert annotation == credentials().generation


def test_the_secrets_hold_what_their_readers_need_and_no_more() -> None:
    """Core never sees the operator's password, and Redis pods mount the ACL file alone."""
    objects = built()
    made = credentials()
    core = entries(objects["Secret/core-core"])
    assert core == {
        "username": "core",
        "password": made.core_password,
        "state-uri": f"redis://core:{made.core_password}@core-state.ns.svc:6379/0",
        "cache-uri": f"redis://core:{made.core_password}@core-cache.ns.svc:6379/0",
    }
    assert entries(objects["Secret/core-core-keys"]) == {
        "cache-hmac-key": made.cache_hmac_key,
        "admin-token": made.admin_token,
    }
    auth = entries(objects["Secret/core-redis-auth"])
    assert (auth["operator-password"], auth["generation"]) == (made.operator_password, made.generation)
    assert made.core_password not in auth["users.acl"]
    (mount,) = (volume for volume in pod(objects["StatefulSet/core-state"])["volumes"] if "secret" in volume)
    assert [item["key"] for item in mount["secret"]["items"]] == ["users.acl"]


def test_the_binding_is_a_provisioned_service_of_the_core_user() -> None:
    """Service Binding for Kubernetes 1.1: well-known entries, and the type in the Secret's own type."""
    secret, made = built()["Secret/core-binding"], credentials()
    assert secret["type"] == "servicebinding.io/redis"
    assert entries(secret) == {
        "type": "redis",
        "provider": "cachepolicy",
        "host": "core-state.ns.svc",
        "port": "6379",
        "username": "core",
        "password": made.core_password,
        "uri": f"redis://core:{made.core_password}@core-state.ns.svc:6379/0",
    }
    only_cache = built({"redis": {"managed": {}}, "embeddingCache": {}})["Secret/core-binding"]
    assert entries(only_cache)["host"] == "core-cache.ns.svc"


def test_only_core_the_operator_and_those_named_reach_redis() -> None:
    peer = {"podSelector": {"matchLabels": {"app": "backup"}}}
    spec = {"redis": {"managed": {"networkPolicy": {"extraFrom": [peer]}}}, "sessions": {}}
    objects = built(spec)
    wall = objects["NetworkPolicy/core-redis"]["spec"]
    (rule,) = wall["ingress"]
    assert rule["from"] == [
        {"podSelector": {"matchLabels": {names.LABEL_POLICY: "core"}}},
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}},
            "podSelector": {"matchLabels": OPERATOR_LABELS},
        },
        peer,
    ]
    assert rule["ports"] == [{"port": 6379, "protocol": "TCP"}]
    assert (wall["policyTypes"], wall["egress"]) == (["Ingress", "Egress"], [])
    pods = objects["StatefulSet/core-state"]["spec"]["template"]["metadata"]["labels"]
    assert wall["podSelector"]["matchLabels"].items() <= pods.items()
    chosen = built({**spec, "core": {"podSelector": {"matchLabels": {"app": "chat"}}}})
    (rule,) = chosen["NetworkPolicy/core-redis"]["spec"]["ingress"]
    assert rule["from"][0] == {"podSelector": {"matchLabels": {"app": "chat"}}}


def test_there_is_no_network_policy_where_none_is_wanted_or_none_could_let_the_operator_in() -> None:
    off = {"redis": {"managed": {"networkPolicy": {"enabled": False}}}, "sessions": {}}
    assert "NetworkPolicy/core-redis" not in built(off)
    outside = build_objects(replace(inputs_of(), operator_namespace=None))
    assert not [obj for obj in outside if obj["kind"] == "NetworkPolicy"]


def test_no_secret_is_outside_the_secrets() -> None:
    """Not in a ConfigMap, not in a command line, not in an annotation."""
    made = credentials()
    secrets = {made.operator_password, made.core_password, made.cache_hmac_key, made.admin_token}
    for name, obj in built().items():
        if not name.startswith("Secret/"):
            assert not [secret for secret in secrets if secret in json.dumps(obj)], name


def test_the_document_is_written_as_core_reads_it() -> None:
    """One key, the whole document."""
    config = built()["ConfigMap/core-core"]
    assert list(config["data"]) == ["policy.json"]
    assert read_document(config["data"]["policy.json"].encode()).document == inputs_of().document


def test_the_image_and_its_pull_policy_come_from_the_spec_or_the_setting() -> None:
    """The spec wins."""
    assert container(built()["StatefulSet/core-state"])["image"] == "example.com/redis:8"
    spec = {**BOTH, "redis": {"managed": {"image": "valkey/valkey:9.1", "imagePullPolicy": "Always"}}}
    found = container(built(spec)["StatefulSet/core-cache"])
    assert (found["image"], found["imagePullPolicy"]) == ("valkey/valkey:9.1", "Always")


def test_pods_are_marked_scheduled_and_pulled_as_the_spec_says() -> None:
    managed = {
        "podMetadata": {"labels": {"team": "x"}, "annotations": {"example.com/a": "b"}},
        "scheduling": {
            "nodeSelector": {"disk": "ssd"},
            "affinity": {"podAntiAffinity": {}},
            "tolerations": [{"operator": "Exists"}],
            "topologySpreadConstraints": [{"maxSkew": 1}],
            "priorityClassName": "high",
        },
        "imagePullSecrets": [{"name": "login"}],
    }
    plain = built({"redis": {"managed": {}}, "sessions": {}})["StatefulSet/core-state"]
    marked = built({"redis": {"managed": managed}, "sessions": {}})["StatefulSet/core-state"]
    template = marked["spec"]["template"]
    assert template["metadata"]["labels"].items() >= {"team": "x", names.LABEL_OWNER: "core"}.items()
    assert template["metadata"]["annotations"]["example.com/a"] == "b"
    assert template["spec"].items() >= managed["scheduling"].items()  # type: ignore[attr-defined]
    assert template["spec"]["imagePullSecrets"] == [{"name": "login"}]
    assert marked["spec"]["selector"] == plain["spec"]["selector"], "a selector never changes"
    assert marked["metadata"]["labels"] == plain["metadata"]["labels"]


def test_a_hibernated_policy_keeps_everything_but_its_pods() -> None:
    awake = built({"redis": {"managed": {}}, "sessions": {}})
    asleep = built({"redis": {"managed": {"hibernated": True}}, "sessions": {}})
    assert awake.keys() == asleep.keys()
    assert asleep["StatefulSet/core-state"]["spec"]["replicas"] == 0
    asleep["StatefulSet/core-state"]["spec"]["replicas"] = 1
    assert asleep == awake, "and waking rolls nothing"


def test_building_is_deterministic_and_leaves_its_inputs_alone() -> None:
    """Equal inputs, equal objects: otherwise there would be writes at rest."""
    inputs = inputs_of(DISK, state=ServerConfig(live={"maxclients": MAXCLIENTS}, restart={"databases": "4"}))
    first = copy.deepcopy(build_objects(inputs))
    assert build_objects(inputs) == first
