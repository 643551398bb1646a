"""Which of several operators acts, and that one which cannot renew stops before the next one begins."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from cachepolicy_operator import errors
from cachepolicy_operator.acting import Acting
from cachepolicy_operator.kinds import Kind
from cachepolicy_operator.lease import DEADLINE, DURATION, NAME, RENEW_PACE, Leadership
from cachepolicy_operator.queue import Gate, Key

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


class Kube:
    """Stores one Lease as the API server does; ``away`` refuses everything."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.away = False
        self.writes: list[str] = []

    async def find(self, kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
        if self.away:
            raise errors.Unreachable("get Lease: no answer")
        assert (kind.plural, namespace, name) == ("leases", "ops", NAME)
        found = copy.deepcopy(self.lease)
        await asyncio.sleep(0)
        return found

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        return await self.find(kind, namespace, name) or {}

    async def create(self, obj: dict[str, Any]) -> dict[str, Any]:
        if self.lease is not None:
            raise errors.Conflict("exists")
        return self._store(obj, 1)

    async def replace(self, obj: dict[str, Any]) -> dict[str, Any]:
        if self.away:
            raise errors.Unreachable("replace Lease: no answer")
        assert self.lease is not None
        version = int(self.lease["metadata"]["resourceVersion"])
        if obj["metadata"]["resourceVersion"] != str(version):
            raise errors.Conflict("changed meanwhile")
        return self._store(obj, version + 1)

    def _store(self, obj: dict[str, Any], version: int) -> dict[str, Any]:
        self.lease = copy.deepcopy(obj)
        self.lease["metadata"]["resourceVersion"] = str(version)
        self.writes.append(obj["spec"]["holderIdentity"])
        return copy.deepcopy(self.lease)


class World:
    """A clock that runs only in sleeps; ``tick`` is called after each."""

    def __init__(self) -> None:
        self.kube = Kube()
        self.time = 1000.0
        self.tick: Callable[[], None] = lambda: None

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.tick()
        await asyncio.sleep(0)

    def member(self, name: str) -> Leadership:
        kube: Any = self.kube
        return Leadership(kube, "ops", name, clock=lambda: self.time, now=lambda: NOW, sleep=self.sleep)


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_one_takes_it_and_the_second_waits(world: World) -> None:
    first, second = world.member("a"), world.member("b")
    await first.acquire()
    assert first.held
    assert await second._attempt() == "held by a"
    assert not second.held
    assert world.kube.lease is not None
    assert world.kube.lease["spec"]["leaseDurationSeconds"] == DURATION


async def test_a_holder_that_has_gone_silent_is_followed_only_after_it_has_stopped(world: World) -> None:
    """Both deadlines are counted by the clock of whoever uses them; the record's times are not looked at."""
    first, second = world.member("a"), world.member("b")
    await first.acquire()
    begun = world.time
    await second.acquire()
    assert DURATION <= world.time - begun <= 15, "failover within 15 s"
    assert not first.held, "and the one before may not write any more"
    assert world.kube.lease is not None
    assert world.kube.lease["spec"]["leaseTransitions"] == 1


async def test_one_that_renews_is_never_followed(world: World) -> None:
    first, second = world.member("a"), world.member("b")
    await first.acquire()
    for _ in range(20):
        world.time += RENEW_PACE
        assert await second._attempt() == "held by a"
        assert await first._attempt() == ""
    assert first.held


async def test_without_an_api_server_the_holder_stops_in_time(world: World) -> None:
    first = world.member("a")
    await first.acquire()
    begun, world.kube.away = world.time, True
    assert "no answer" in await first.hold()
    assert not first.held
    assert DEADLINE <= world.time - begun < DURATION


async def test_a_short_outage_of_the_api_server_changes_nothing(world: World) -> None:
    first = world.member("a")
    await first.acquire()
    renewals = 0

    def tick() -> None:
        nonlocal renewals
        renewals += 1
        world.kube.away = renewals in (2, 3)
        if renewals == 10:
            raise asyncio.CancelledError

    world.tick = tick
    with pytest.raises(asyncio.CancelledError):
        await first.hold()
    assert first.held


async def test_a_process_that_was_stopped_may_not_write_when_it_goes_on(world: World) -> None:
    """SIGSTOP, a suspended machine: nobody told it, only the clock has gone on."""
    first = world.member("a")
    await first.acquire()
    world.time += DEADLINE
    assert not first.held


async def test_one_whose_lease_was_taken_stops_at_once(world: World) -> None:
    first = world.member("a")
    await first.acquire()
    assert world.kube.lease is not None
    world.kube.lease["spec"]["holderIdentity"] = "b"
    world.kube.lease["metadata"]["resourceVersion"] = "77"
    assert await first.hold() == "held by b"
    assert not first.held


async def test_a_lease_that_was_given_back_is_free_at_once(world: World) -> None:
    first, second = world.member("a"), world.member("b")
    await first.acquire()
    await first.release()
    assert not first.held
    assert await second._attempt() == ""
    await first.release()
    assert world.kube.writes == ["a", "", "b"], "and nobody gives back what is another's"


async def test_of_two_that_ask_at_once_one_gets_it(world: World) -> None:
    first, second = world.member("a"), world.member("b")
    said = await asyncio.gather(first._attempt(), second._attempt())
    assert sorted(said) == ["", "somebody else was faster"]
    assert first.held != second.held


async def test_nothing_passes_and_nothing_runs_before_the_lease_is_held(world: World) -> None:
    seen: list[Key] = []
    running = asyncio.Event()

    async def rounds() -> None:
        running.set()

    told: list[float] = []
    other = world.member("b")
    await other.acquire()
    acting = Acting(world.member("a"), Gate(seen.append), (rounds,), told.append)
    one, two = Key("ns", "one"), Key("ns", "two")
    for key in (one, two, one):
        acting.gate.add(key)
    assert (seen, running.is_set()) == ([], False)
    task = acting.start()
    await running.wait()
    assert seen == [one, two], "each once, in their order"
    acting.gate.add(one)
    assert seen == [one, two, one]
    world.kube.away = True
    await task
    assert acting.lost
    assert told == [0, 1, 0]
    await acting.stop()


async def test_an_operator_outside_a_cluster_acts_alone() -> None:
    seen: list[Key] = []
    acting = Acting(None, Gate(seen.append), (), lambda _: None)
    acting.gate.add(Key("ns", "one"))
    acting.start()
    await asyncio.sleep(0)
    assert seen == [Key("ns", "one")]
    await acting.stop()
    assert not acting.lost
