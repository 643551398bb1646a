"""A CachePolicy from its first day to its last: before Core, beside others, broken, paused, deleted, made again."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator

import pytest
from tests.cluster.conftest import Alone
from tests.cluster.core import Core
from tests.cluster.installation import Operator, redis_images, sample
from tests.cluster.kube import Cluster, Object, wait_for
from tests.cluster.policy import START_SECONDS, Policy
from tests.policies import Spec

from cachepolicy import names
from cachepolicy.names import Role

CACHE_ONLY, STATE_ONLY, MINIMAL = (sample(name) for name in ("cache-only", "state-only", "minimal"))


def columns(printed: str) -> dict[str, str]:
    """What ``kubectl get`` printed about one object, by column."""
    header, line = printed.splitlines()
    return dict(zip(header.split(), line.split(), strict=True))


# --------------------------------------------------------------------------------------------- the first day


def test_a_policy_is_ready_long_before_there_is_a_core(alone: Alone) -> None:
    """With sync waves Core comes after the policy: a Ready that waited for it would wait for ever."""
    conditions = {kind: (item["status"], item["reason"]) for kind, item in alone.conditions.items()}
    assert conditions["Ready"] == ("True", "Ready")
    assert conditions["RedisAvailable"][0] == conditions["ConfigApplied"][0] == "True"
    assert conditions["Enforced"] == ("Unknown", "NoReplicas")
    assert names.LABEL_POLICY in alone.conditions["Enforced"]["message"]
    assert not {"Reconciling", "Stalled"} & set(conditions)


def test_kubectl_get_tells_the_state_at_a_glance(alone: Alone, core: Core) -> None:
    before = columns(alone.printed)
    alone.policy.wait_enforced()
    after = columns(alone.policy.cluster.kubectl("get", "cpol", "-n", alone.policy.namespace))
    expected = {"NAME": "core", "READY": "True", "REASON": "Ready", "STATE": "1/1", "CACHE": "1/1"}
    for shown, enforced in ((before, "0/0"), (after, "2/2")):
        assert expected.items() <= shown.items()
        assert shown["ENFORCED"] == enforced
        assert shown["SECTIONS"] == "sessions,rateLimits,responseCache,embeddingCache"
    assert after["REVISION"] == alone.policy.document["revision"]


def test_status_names_endpoints_versions_and_memory(policy: Policy) -> None:
    found = policy.status
    for role in Role:
        server = found["redis"][role]
        assert server["endpoint"].startswith(f"{names.server(policy.name, role)}.{policy.namespace}.svc")
        assert server["version"].split()[0] in ("redis", "valkey")
        assert server["maxmemory"] == policy.directive(role, "maxmemory")
    core = found["core"]
    assert (core["configMap"], core["secret"]) == (f"{policy.name}-core", f"{policy.name}-core")
    assert (core["replicas"], core["enforcedReplicas"], core["processes"]) == (2, 2, 2)


# ------------------------------------------------------------------------------------- many in one namespace


@pytest.fixture(scope="module")
def neighbours(
    cluster: Cluster, operator: Operator, new_namespace: Callable[[str], str]
) -> Iterator[Callable[[str], Policy]]:
    """Policies of one namespace, all applied at once: two good ones and three that cannot work."""
    namespace = new_namespace("many")
    cluster.namespaces.add(namespace)
    foreign: Object = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"mine": "yes"}}
    cluster.apply(foreign | {"metadata": {"name": names.core_config_map("taken"), "namespace": namespace}})
    specs: dict[str, Spec] = {
        "good": MINIMAL,
        "other": copy.deepcopy(STATE_ONLY),
        "small": {
            "redis": {"managed": {"cache": {"resources": {"limits": {"memory": "36Mi"}}}}},
            "responseCache": {},
        },
        "absent": {
            "redis": {"managed": {"image": "docker.io/library/redis:never-made"}},
            "responseCache": {},
        },
        "taken": MINIMAL,
    }
    if redis_images():
        specs["other"]["redis"]["managed"]["image"] = redis_images()[-1]
    for name, spec in specs.items():
        Policy(cluster, namespace, name).apply(spec)
    yield lambda name: Policy(cluster, namespace, name)
    cluster.namespaces.discard(namespace)
    cluster.delete("Namespace", "", namespace)


def test_policies_side_by_side_have_servers_keys_and_passwords_of_their_own(
    neighbours: Callable[[str], Policy],
) -> None:
    """And bad neighbours do not disturb them."""
    good, other = neighbours("good"), neighbours("other")
    good.wait_ready()
    other.wait_ready()
    assert good.document["redis"]["keyPrefix"] == f"{good.namespace}/good"
    assert other.document["redis"]["keyPrefix"] == f"{other.namespace}/other"
    assert set(good.status["redis"]) == {"cache"}
    assert set(other.status["redis"]) == {"state"}
    values = [
        value for policy in (good, other) for secret in policy.secrets().values() for value in secret.values()
    ]
    assert len(set(values) - {names.USER_CORE}) == len(
        [value for value in values if value != names.USER_CORE]
    )


def test_a_memory_limit_too_small_for_redis_stalls_with_its_path(
    neighbours: Callable[[str], Policy],
) -> None:
    small = neighbours("small")
    message = small.wait_until("Stalled", "True", "MemoryTooSmall")
    assert "spec.redis.managed.cache.resources.limits.memory: 36Mi is too small for Redis" in message
    assert "set 40Mi or more" in message
    assert small.condition("Ready") == ("False", "MemoryTooSmall")
    assert small.owned() == []


def test_an_image_that_cannot_be_pulled_is_named_and_the_fix_is_enough(
    neighbours: Callable[[str], Policy],
) -> None:
    """The broken pod would block its successor for ever: it is replaced."""
    absent = neighbours("absent")
    message = absent.wait_until("Ready", "False", "ImagePullFailed", timeout=40)
    assert "redis:never-made" in message
    assert "spec.redis.managed.image" in message
    assert absent.condition("RedisAvailable")[0] == "False"
    # Not an empty ``managed``: server-side apply makes null of an object that loses its last field
    # (kubernetes/kubernetes#135841).
    absent.apply({"redis": {"managed": {"imagePullPolicy": "IfNotPresent"}}, "responseCache": {}})
    absent.wait_ready()


def test_an_object_of_somebody_else_under_our_name_is_left_alone(
    neighbours: Callable[[str], Policy],
) -> None:
    taken = neighbours("taken")
    name = names.core_config_map("taken")
    message = taken.wait_until("Stalled", "True", "NameConflict")
    assert f"ConfigMap {name} exists and belongs to somebody else: delete or rename it" in message
    assert taken.cluster.need("ConfigMap", taken.namespace, name)["data"] == {"mine": "yes"}
    assert taken.owned() == []
    taken.cluster.delete("ConfigMap", taken.namespace, name)
    taken.wait_ready(timeout=START_SECONDS + 40)


def test_a_failure_half_way_is_said_and_no_password_is_made_twice(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    """A quota refuses the Services; every attempt must go on with what the one before it stored."""
    quota: Object = {"apiVersion": "v1", "kind": "ResourceQuota", "spec": {"hard": {"count/services": "0"}}}
    cluster.apply(quota | {"metadata": {"name": "none", "namespace": namespace}})
    policy = Policy(cluster, namespace, "half")
    policy.apply(MINIMAL)
    message = wait_for("the quota in the message", lambda: _ready_message(policy, "quota"), timeout=20)
    assert "half-cache" in message, "the object that failed is named"
    auth = names.redis_auth_secret("half")
    before = policy.secret(auth)
    time.sleep(4)  # two more attempts: the pauses between them are 1 and 2 s
    assert policy.secret(auth) == before
    cluster.kubectl("delete", "resourcequota", "none", "-n", namespace)
    policy.wait_ready()
    assert policy.secret(auth) == before
    assert policy.redis(Role.CACHE, "PING", user=names.USER_CORE) == "PONG"


def _ready_message(policy: Policy, word: str) -> str:
    said = policy.conditions()["Ready"]
    assert said["status"] == "False", str(said)
    assert word in said["message"], str(said)
    return str(said["message"])


# ----------------------------------------------------------------------------------------------- the last day


def claims(policy: Policy) -> list[str]:
    return [
        item["metadata"]["name"] for item in policy.cluster.list("PersistentVolumeClaim", policy.namespace)
    ]


def wait_gone(policy: Policy) -> None:
    """Until nothing is left but the claim."""

    def gone() -> bool:
        left = [f"{item['kind']} {item['metadata']['name']}" for item in policy.owned()]
        pods = [pod["metadata"]["name"] for pod in policy.redis_pods()]
        assert not left and not pods, f"still there: {left} {pods}"  # noqa: PT018 - one finding
        return True

    wait_for(f"everything of {policy.name} to go", gone, timeout=60)


def test_deleting_a_policy_takes_everything_but_the_volume_and_making_it_again_finds_the_data(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    """Made again at once, while the old objects are still being removed."""
    policy = Policy(cluster, namespace, "short")
    policy.apply(STATE_ONLY)
    policy.wait_ready()
    assert policy.redis(Role.STATE, "SET", f"{namespace}/short:s:kept", "1", user=names.USER_CORE) == "OK"
    before = policy.object["metadata"]["uid"], claims(policy), policy.secrets(), policy.owned()
    policy.delete()
    wait_for("the policy to be gone", lambda: not cluster.get("CachePolicy", namespace, "short"), timeout=10)
    policy.apply(STATE_ONLY)
    policy.wait_ready()
    assert policy.object["metadata"]["uid"] != before[0]
    assert policy.document["uid"] == policy.object["metadata"]["uid"]
    old = {item["metadata"]["uid"] for item in before[3]}
    assert not old & {item["metadata"]["uid"] for item in policy.owned()}
    assert claims(policy) == before[1]
    assert policy.secrets() != before[2], "passwords of the old policy are not used again"
    assert policy.redis(Role.STATE, "GET", f"{namespace}/short:s:kept", user=names.USER_CORE) == "1"

    # And for good, with nobody there who could help: the garbage collector is enough.
    with operator.away():
        policy.delete()
        wait_gone(policy)
        assert claims(policy) == before[1]


def test_a_larger_volume_is_had_without_a_restart(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    if not growing_volumes(cluster):
        pytest.skip("the default StorageClass of this cluster does not let volumes grow")
    policy = Policy(cluster, namespace, "larger")
    policy.apply(STATE_ONLY)
    policy.wait_ready()
    lives, (claim,) = policy.lives(), claims(policy)
    spec = copy.deepcopy(STATE_ONLY)
    spec["redis"]["managed"]["state"]["storage"]["size"] = "2Gi"
    policy.apply(spec)
    wait_for(
        "the claim to be larger",
        lambda: (
            cluster.need("PersistentVolumeClaim", namespace, claim)["status"]["capacity"]["storage"] == "2Gi"
        ),
        timeout=60,
    )
    policy.wait_ready()
    template = cluster.need("StatefulSet", namespace, names.server("larger", Role.STATE))
    requests = template["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]
    assert requests == {"storage": "2Gi"}
    assert policy.lives() == lives


def growing_volumes(cluster: Cluster) -> bool:
    """Whether the default StorageClass lets claims grow."""
    answer = cluster.http.get("/apis/storage.k8s.io/v1/storageclasses").json()
    marked = "storageclass.kubernetes.io/is-default-class"
    return any(
        item.get("allowVolumeExpansion") and item["metadata"].get("annotations", {}).get(marked) == "true"
        for item in answer["items"]
    )


def test_without_its_last_section_a_server_goes_and_its_claim_stays(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    policy = Policy(cluster, namespace, "less")
    policy.apply({**STATE_ONLY, "responseCache": {}})
    policy.wait_ready()
    kept = claims(policy)
    policy.apply(CACHE_ONLY)
    wait_for(
        "the state server to go",
        lambda: not cluster.get("StatefulSet", namespace, names.server("less", Role.STATE)),
        timeout=10,
    )
    policy.wait_ready()
    assert set(policy.status["redis"]) == {"cache"}
    assert "state" not in policy.document["redis"]
    assert claims(policy) == kept
    assert not [item for item in policy.owned() if "-state" in item["metadata"]["name"]]
    notes = "\n".join(
        event.get("message", "")
        for event in cluster.list("Event", namespace)
        if event["involvedObject"]["name"] == "less"
    )
    assert kept[0] in notes, "an Event says what stays"


def test_a_policy_made_paused_makes_nothing_until_it_is_not(
    cluster: Cluster, operator: Operator, namespace: str
) -> None:
    policy = Policy(cluster, namespace, "later")
    policy.apply({**MINIMAL, "paused": True})
    message = policy.wait_until("ConfigApplied", "False", "Paused")
    assert "spec.paused" in message
    assert policy.owned() == []
    policy.apply(MINIMAL)
    policy.wait_ready()


def test_a_policy_with_core_survives_the_deletion_of_every_redis_pod(policy: Policy, core: Core) -> None:
    lives = core.lives()
    for pod in policy.redis_pods():
        policy.cluster.delete("Pod", policy.namespace, pod["metadata"]["name"])
    wait_for("Ready to fall", lambda: policy.condition("Ready")[0] == "False", timeout=15, every=0.1)
    policy.wait_ready()
    policy.wait_enforced()
    assert core.lives() == lives
