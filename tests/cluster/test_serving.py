"""What callers of Core get: one state over both replicas, as the policy says."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.cluster.core import (
    ALICE,
    BOB,
    CAROL,
    CHAT,
    SESSION,
    Core,
    Replica,
    cache_status,
    cookie_of,
    is_hit,
)
from tests.cluster.installation import core_spec
from tests.cluster.kube import Cluster, wait_for
from tests.cluster.policy import Policy

from cachepolicy import names


@pytest.fixture
def replicas(policy: Policy, core: Core) -> tuple[Replica, Replica]:
    return core.pair()


def test_an_answer_of_one_replica_is_a_hit_at_the_other(replicas: tuple[Replica, Replica]) -> None:
    first, second = (replica.ask("What is shared?") for replica in replicas)
    assert not is_hit(first)
    assert is_hit(second)
    assert first.json() == second.json()
    assert first.headers["X-Served-By"] != second.headers["X-Served-By"]


def test_another_tenant_never_gets_a_cached_answer(replicas: tuple[Replica, Replica]) -> None:
    """Not by the same question, and not by claiming to be the tenant."""
    question = "What is private?"
    assert not is_hit(replicas[0].ask(question, key=ALICE))
    claims = {"X-Tenant": "acme", "X-Tenant-Id": "acme", "X-User": "alice"}
    body = {"model": "demo", "messages": [{"role": "user", "content": question}], "user": "alice"}
    answer = replicas[1].request("POST", f"{CHAT}?tenant=acme", key=BOB, json=body, headers=claims)
    assert not is_hit(answer), "bob was given alice's answer"
    assert is_hit(replicas[1].ask(question, key=CAROL)), "carol is of alice's tenant"


def test_a_stream_is_passed_through_and_never_stored(replicas: tuple[Replica, Replica]) -> None:
    for replica in (*replicas, replicas[0]):
        body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "Count slowly."}]}
        headers = {"Authorization": f"Bearer {ALICE}"}
        with replica.http.stream("POST", CHAT, json=body, headers=headers) as answer:
            arrivals = [time.monotonic() for line in answer.iter_lines() if line.startswith("data:")]
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert not is_hit(answer)
        assert len(arrivals) > 2
        assert arrivals[-1] - arrivals[0] > 0.02, "the pieces came all at once: something held them back"


def test_embeddings_are_cached_one_by_one(replicas: tuple[Replica, Replica]) -> None:
    first = replicas[0].embed("red", "green")
    second = replicas[1].embed("green", "blue", "red", "green")
    assert "fwd=partial" in cache_status(second)
    known = [item["embedding"] for item in first.json()["data"]]
    again = [item["embedding"] for item in second.json()["data"]]
    assert again[2] == known[0]
    assert again[0] == again[3] == known[1]
    assert is_hit(replicas[0].embed("blue"))


def test_a_session_outlives_the_pod_that_made_it(
    cluster: Cluster, policy: Policy, core: Core, replicas: tuple[Replica, Replica]
) -> None:
    maker, other = replicas
    cookie = cookie_of(maker.request("PUT", SESSION, json={"theme": "dark"}))
    cluster.delete("Pod", core.namespace, maker.pod)
    assert other.request("GET", SESSION, cookie=cookie).json() == {"theme": "dark"}
    wait_for("the pod to be replaced", lambda: maker.pod not in core.lives(), timeout=60)
    new = next(replica for replica in core.pair() if replica.pod != other.pod)
    assert new.request("GET", SESSION, cookie=cookie).json() == {"theme": "dark"}
    assert new.request("GET", SESSION, cookie=cookie, key=BOB).json() == {}, "bob holds alice's cookie"
    policy.wait_enforced()


def test_a_session_can_be_ended_at_the_other_replica(replicas: tuple[Replica, Replica]) -> None:
    cookie = cookie_of(replicas[0].request("PUT", SESSION, json={"n": 1}))
    assert replicas[1].request("DELETE", SESSION, cookie=cookie).is_success
    assert replicas[0].request("GET", SESSION, cookie=cookie).json() == {}


def test_a_limit_holds_over_both_replicas_together(policy: Policy, core: Core) -> None:
    spec = core_spec()
    spec["rateLimits"] = {"burst": {"by": [{"type": "User"}], "rates": [{"limit": 7, "window": "5m"}]}}
    policy.apply(spec)
    policy.wait_enforced()
    replicas = core.pair()
    answers = [replicas[number % 2].ask(f"Question {number}?", key=CAROL) for number in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 7 + [429] * 3
    assert "q=7;w=300" in answers[0].headers["RateLimit-Policy"].replace(" ", "")
    for refused in answers[-2:]:
        assert all(name in refused.headers for name in ("RateLimit", "RateLimit-Policy", "Retry-After"))
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.json()["status"] == 429
    assert replicas[0].ask("And me?", key=BOB).status_code == 200, "bob has room of his own"


def test_callers_without_a_valid_key_are_not_served(replicas: tuple[Replica, Replica]) -> None:
    for key in (None, "sample-key-mallory"):
        answer = replicas[0].request("POST", CHAT, key=key, json={"model": "demo", "messages": []})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_health_and_stats_answer_anybody_and_name_the_revision(
    policy: Policy, replicas: tuple[Replica, Replica]
) -> None:
    for replica in replicas:
        assert replica.health()["status"] == "up"
        assert policy.document["revision"] in replica.request("GET", "/cache/stats", key=None).text


@pytest.fixture
def stored(replicas: tuple[Replica, Replica]) -> tuple[Replica, Replica]:
    """Both replicas, with an answer and an embedding in the cache and a session on the state server."""
    for replica in replicas:
        replica.ask("What is kept?")
        replica.embed("kept")
    assert _hits(replicas) == [True, True]
    return replicas


def _hits(replicas: tuple[Replica, Replica]) -> list[bool]:
    """Whether each replica has the answer, asked so that a miss stores nothing."""
    body: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "What is kept?"}]}
    headers = {"Cache-Control": "no-store"}
    return [is_hit(replica.request("POST", CHAT, json=body, headers=headers)) for replica in replicas]


def test_clearing_at_one_replica_empties_both_and_needs_the_admin_token(
    policy: Policy, stored: tuple[Replica, Replica]
) -> None:
    cookie = cookie_of(stored[0].request("PUT", SESSION, json={"kept": True}))
    everything = {"all": True}
    assert stored[0].request("POST", "/cache/clear", key=None, json=everything).status_code == 401
    assert stored[0].request("POST", "/cache/clear", key=ALICE, json=everything).status_code == 403
    assert _hits(stored) == [True, True]
    token = policy.secret(names.core_keys_secret(policy.name))[names.FILE_ADMIN_TOKEN]
    assert stored[0].request("POST", "/cache/clear", key=token, json=everything).status_code == 200
    wait_for("both replicas to miss", lambda: _hits(stored) == [False, False], timeout=2, every=0.05)
    assert stored[1].request("GET", SESSION, cookie=cookie).json() == {"kept": True}, "sessions stay"


def test_a_changed_purge_value_empties_the_caches_of_both(
    policy: Policy, stored: tuple[Replica, Replica]
) -> None:
    spec = core_spec()
    spec["purge"]["all"] = "2"
    policy.apply(spec)
    wait_for("both replicas to miss", lambda: _hits(stored) == [False, False], timeout=5, every=0.05)
    policy.wait_enforced()
