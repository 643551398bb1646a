"""Whole reconciles against an API server of a few lines: what is written, in which order, and what is said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.worlds import IMAGE, NOW, SPEC, UID, as_stored, policy

from cachepolicy_operator import errors
from cachepolicy_operator.kinds import Kind
from cachepolicy_operator.metrics import Metrics
from cachepolicy_operator.observed import Json
from cachepolicy_operator.queue import Key
from cachepolicy_operator.reconcile import (
    BROKEN_PAUSE,
    CONFLICT_PAUSE,
    STARTING_PAUSE,
    WRITTEN_PAUSE,
    Reconciler,
)
from cachepolicy_operator.redis_watch import RedisWatch

CORE = Key("ns", "core")


Writes = list[tuple[str, str, str]]
Objects = list[Json]


@dataclass
class StandInKube:
    """Objects by kind and name, and every write in its order. ``refuse`` raises for a write or lets it pass."""

    objects: dict[tuple[str, str], Json] = field(default_factory=dict)
    writes: Writes = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    refuse: Callable[[str, str, str], Exception | None] = lambda verb, kind, name: None
    version: int = 100

    def has(self, obj: Json) -> None:
        self.version += 1
        stored = copy.deepcopy(obj)
        stored["metadata"]["resourceVersion"] = str(self.version)
        self.objects[obj["kind"], obj["metadata"]["name"]] = stored

    def _write(self, verb: str, kind: str, name: str) -> None:
        refusal = self.refuse(verb, kind, name)
        if refusal is not None:
            raise refusal
        self.writes.append((verb, kind, name))

    async def find(self, kind: Kind, namespace: str, name: str) -> Json | None:
        return copy.deepcopy(self.objects.get((kind.name, name)))

    async def list(self, kind: Kind, namespace: str, *, selector: str) -> Objects:
        wanted = dict(part.split("=") for part in selector.split(","))
        return [
            copy.deepcopy(obj)
            for (found, _), obj in self.objects.items()
            if found == kind.name and wanted.items() <= (obj["metadata"].get("labels") or {}).items()
        ]

    async def apply(self, obj: Json) -> Json:
        self._write("apply", obj["kind"], obj["metadata"]["name"])
        self.has(as_stored(obj))
        return copy.deepcopy(self.objects[obj["kind"], obj["metadata"]["name"]])

    async def patch(self, kind: Kind, namespace: str, name: str, change: Json) -> Json:
        self._write("patch", kind.name, name)
        return self.objects[kind.name, name]

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str, propagation: str) -> bool:
        self._write("delete", kind.name, name)
        return self.objects.pop((kind.name, name), None) is not None

    async def replace_status(self, obj: Json) -> Json:
        self._write("status", obj["kind"], obj["metadata"]["name"])
        self.has(obj)
        return obj

    async def create_event(self, regarding: Json, *, reason: str, **_: Any) -> None:
        self.events.append(reason)

    @property
    def status(self) -> Json:
        found: Json = self.objects["CachePolicy", "core"]["status"]
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        (item,) = [item for item in self.status["conditions"] if item["type"] == kind]
        return item["status"], item["reason"]

    def taken(self) -> Writes:
        """The writes since this was last asked."""
        found, self.writes = self.writes, []
        return found


@pytest.fixture
def kube() -> StandInKube:
    made = StandInKube()
    made.has(policy())
    return made


def reconciler(kube: StandInKube, now: datetime = NOW) -> Reconciler:
    """A process that has just started."""
    watch = RedisWatch(lambda key: None, pace=1, fast_pace=1)
    stand_in: Any = kube
    return Reconciler(stand_in, watch, Metrics(), default_image=IMAGE, instance="test", now=lambda: now)


async def test_a_new_policy_is_written_and_reported_and_then_left_alone(kube: StandInKube) -> None:
    operator = reconciler(kube)
    assert await operator.reconcile(CORE) == STARTING_PAUSE, "its pods are not watched"
    first = kube.taken()
    assert {verb for verb, _, _ in first} == {"apply", "status"}
    assert first[-1] == ("status", "CachePolicy", "core"), "the report comes last"
    assert kube.condition("Ready") == ("False", "Starting")
    await operator.reconcile(CORE)
    assert kube.taken() == []


async def test_after_a_write_there_is_another_look_though_no_event_may_come(kube: StandInKube) -> None:
    """Secrets are not watched: without it the round over them would not know what it compares with."""
    await reconciler(kube).reconcile(CORE)
    operator = reconciler(kube, NOW + timedelta(minutes=5))
    assert await operator.reconcile(CORE) == BROKEN_PAUSE
    assert operator.versions(CORE)
    kube.objects["Secret", "core-core"]["data"] = {}
    assert await operator.reconcile(CORE) == WRITTEN_PAUSE
    assert operator.versions(CORE) is None
    await operator.reconcile(CORE)
    assert operator.versions(CORE)


async def test_a_process_that_starts_again_writes_nothing_and_makes_no_new_password(
    kube: StandInKube,
) -> None:
    await reconciler(kube).reconcile(CORE)
    before = copy.deepcopy(kube.objects)
    kube.taken()
    await reconciler(kube).reconcile(CORE)
    assert kube.taken() == []
    assert kube.objects == before


async def test_a_failure_half_way_is_said_raised_and_never_makes_a_password_twice(kube: StandInKube) -> None:
    operator = reconciler(kube)
    quota = errors.Forbidden("apply Secret ns/core-core: exceeded quota")
    kube.refuse = lambda verb, kind, name: quota if (kind, name) == ("Secret", "core-core") else None
    for _ in range(2):
        with pytest.raises(errors.Forbidden):
            await operator.reconcile(CORE)
    assert kube.condition("Ready") == ("False", "Forbidden")
    assert kube.taken().count(("apply", "Secret", "core-redis-auth")) == 1
    kube.refuse = lambda verb, kind, name: None
    await operator.reconcile(CORE)
    assert ("apply", "Secret", "core-redis-auth") not in kube.taken()


async def test_an_object_that_is_refused_holds_up_no_other(kube: StandInKube) -> None:
    refused = errors.Invalid("apply Service ns/core-state: invalid", field="spec.ports")
    kube.refuse = lambda verb, kind, name: refused if (kind, name) == ("Service", "core-state") else None
    await reconciler(kube).reconcile(CORE)
    assert ("apply", "ConfigMap", "core-core") in kube.taken()
    assert kube.condition("Stalled") == ("True", "InvalidObject")


async def test_a_list_that_merging_cannot_repair_is_replaced(kube: StandInKube) -> None:
    await reconciler(kube).reconcile(CORE)
    kube.taken()
    kube.objects["Service", "core-state"]["spec"]["ports"] = []
    refusals = [errors.Invalid("duplicate name")]
    kube.refuse = lambda verb, kind, name: refusals.pop() if verb == "apply" and refusals else None
    await reconciler(kube).reconcile(CORE)
    assert kube.taken() == [("patch", "Service", "core-state"), ("apply", "Service", "core-state")]


async def test_a_policy_deleted_meanwhile_does_not_come_back_in_its_objects(kube: StandInKube) -> None:
    """Apply creates (rule 32)."""
    asked = 0
    find = kube.find

    async def gone_at_the_second_look(kind: Kind, namespace: str, name: str) -> Json | None:
        nonlocal asked
        if kind.name == "CachePolicy":
            asked += 1
            return await find(kind, namespace, name) if asked == 1 else None
        return await find(kind, namespace, name)

    kube.find = gone_at_the_second_look  # type: ignore[method-assign]  # what a race looks like
    with pytest.raises(errors.Superseded):
        await reconciler(kube).reconcile(CORE)
    assert kube.writes == []


async def test_a_policy_that_has_gone_needs_nothing(kube: StandInKube) -> None:
    operator = reconciler(kube)
    await operator.reconcile(CORE)
    kube.taken()
    del kube.objects["CachePolicy", "core"]
    assert await operator.reconcile(CORE) is None
    assert (kube.taken(), operator.policies) == ([], ())


async def test_a_paused_policy_is_reported_and_not_touched(kube: StandInKube) -> None:
    kube.has(policy({**SPEC, "paused": True}))
    await reconciler(kube).reconcile(CORE)
    assert kube.taken() == [("status", "CachePolicy", "core")]
    assert kube.condition("ConfigApplied") == ("False", "Paused")


async def test_a_bad_spec_is_reported_and_waits_for_another_one(kube: StandInKube) -> None:
    kube.has(policy({**SPEC, "sesions": {}}))
    assert await reconciler(kube).reconcile(CORE) is None
    assert kube.taken() == [("status", "CachePolicy", "core")]
    assert kube.condition("Stalled") == ("True", "InvalidSpec")
    assert kube.events == ["InvalidSpec"]


async def test_a_foreign_object_is_left_as_it_is_and_looked_at_again(kube: StandInKube) -> None:
    kube.has({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "core-core"}, "data": {"a": "b"}})
    assert await reconciler(kube).reconcile(CORE) == CONFLICT_PAUSE
    assert kube.taken() == [("status", "CachePolicy", "core")]
    assert kube.condition("Ready") == ("False", "NameConflict")


async def test_nothing_is_taken_from_somebody_elses_secret(kube: StandInKube) -> None:
    """Its password would go into our ACL file."""
    foreign = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "core-core"},
        "data": {"password": "eA=="},
    }
    kube.has(foreign)
    await reconciler(kube).reconcile(CORE)
    assert kube.condition("Ready") == ("False", "NameConflict")


async def test_a_status_that_somebody_wrote_meanwhile_is_looked_at_again(kube: StandInKube) -> None:
    moved = errors.Conflict("replace_status CachePolicy ns/core: modified")
    kube.refuse = lambda verb, kind, name: moved if verb == "status" else None
    with pytest.raises(errors.Superseded):
        await reconciler(kube).reconcile(CORE)


async def test_at_rest_the_versions_are_kept_for_the_resync(kube: StandInKube) -> None:
    operator = reconciler(kube)
    await operator.reconcile(CORE)
    assert operator.versions(CORE) is None, "it wrote: its own echo is still to come"
    await operator.reconcile(CORE)
    versions = operator.versions(CORE)
    assert versions is not None
    assert (
        versions["CachePolicy", "core"] == kube.objects["CachePolicy", "core"]["metadata"]["resourceVersion"]
    )
    assert kube.objects["CachePolicy", "core"]["metadata"]["uid"] == UID
