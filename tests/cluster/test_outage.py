"""Redis or the operator dies: callers are served all the same, and everything converges afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
from tests.cluster.core import BOB, SESSION, Core, Replica, cookie_of
from tests.cluster.installation import Operator, core_spec
from tests.cluster.kube import wait_for
from tests.cluster.policy import Policy

from cachepolicy import names
from cachepolicy.names import Role


@dataclass
class Traffic:
    """Requests to both replicas, one after the other, in the background."""

    replicas: tuple[Replica, Replica]
    answers: list[tuple[str, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        number = 0
        while not self._stop.wait(0.1):
            replica = self.replicas[number % 2]
            try:
                answer = replica.ask(f"Question {number}?", key=BOB)
                self.answers.append((replica.pod, answer.status_code))
                self.slowest = max(self.slowest, answer.elapsed.total_seconds())
            except httpx.HTTPError as error:
                self.failures.append(f"{replica.pod}: {error!r}")
            number += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(timeout=20)


def statuses(replicas: tuple[Replica, Replica]) -> list[str]:
    return [str(replica.health()["status"]) for replica in replicas]


def test_core_answers_through_a_redis_outage_and_sessions_come_back(policy: Policy, core: Core) -> None:
    """The state pod is killed without notice: its data is on the volume."""
    spec = core_spec()
    spec["rateLimits"] = {"wide": {"by": [{"type": "User"}], "rates": [{"limit": 100000, "window": "1m"}]}}
    policy.apply(spec)
    policy.wait_enforced()
    replicas, lives = core.pair(), core.lives()
    cookie = cookie_of(replicas[0].request("PUT", SESSION, json={"cart": [1, 2]}))
    traffic = Traffic(replicas)
    with traffic.running():
        wait_for("the first answers", lambda: len(traffic.answers) > 10, timeout=10)
        policy.cluster.delete("Pod", policy.namespace, policy.pod_name(Role.STATE), grace=0)
        wait_for("health to say so", lambda: "degraded" in statuses(replicas), timeout=10, every=0.05)
        wait_for("health to be up again", lambda: statuses(replicas) == ["up", "up"], timeout=60)
        policy.wait_ready()
    assert not traffic.failures
    assert {status for _, status in traffic.answers} == {200}
    assert traffic.slowest < 3, f"an answer took {traffic.slowest:.1f} s"
    assert core.lives() == lives
    for replica in replicas:
        assert replica.request("GET", SESSION, cookie=cookie).json() == {"cart": [1, 2]}
    policy.wait_enforced()


def test_an_operator_killed_in_the_middle_of_a_change_converges(
    policy: Policy, core: Core, operator: Operator
) -> None:
    """SIGKILL right after the change was applied, and Core keeps what it enforces meanwhile."""
    spec = core_spec()
    spec["responseCache"]["ttl"] = "13m"
    spec["redis"]["managed"]["cache"]["config"] = {"lfu-decay-time": "3", "databases": "8"}
    policy.apply(spec)
    operator.kill()
    assert core.pair()[0].ask("Is anybody there?").status_code == 200
    operator.wait()
    wait_for("the change", lambda: policy.document["responseCache"]["ttl"] == "13m", timeout=30)
    wait_for("the restart", lambda: policy.directive(Role.CACHE, "databases") == "8", timeout=60)
    policy.wait_ready()
    policy.wait_enforced()
    assert policy.directive(Role.CACHE, "lfu-decay-time") == "3"


def test_what_changes_while_the_operator_is_away_is_done_when_it_is_back(
    policy: Policy, core: Core, operator: Operator
) -> None:
    """A deletion that no watch saw, an edit, a foreign CONFIG SET, and a new spec."""
    service, state = (
        names.headless_service(policy.name, Role.STATE),
        names.server(policy.name, Role.STATE),
    )
    spec = core_spec()
    spec["embeddingCache"]["ttl"] = "100h"
    replicas = core.pair()
    with operator.away():
        policy.cluster.delete("Service", policy.namespace, service)
        policy.cluster.merge("Service", policy.namespace, state, {"spec": {"sessionAffinity": "ClientIP"}})
        assert policy.redis(Role.STATE, "CONFIG", "SET", "appendfsync", "no") == "OK"
        policy.apply(spec)
        assert [replica.ask("Still there?").status_code for replica in replicas] == [200, 200]
    wait_for("the Service", lambda: policy.cluster.get("Service", policy.namespace, service), timeout=30)
    policy.wait_enforced()
    policy.wait_ready()
    assert policy.cluster.need("Service", policy.namespace, state)["spec"]["sessionAffinity"] == "None"
    assert policy.directive(Role.STATE, "appendfsync") == "everysec"
    assert policy.document["embeddingCache"]["ttl"] == "100h"
