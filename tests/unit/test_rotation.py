"""Core's password is replaced in steps, and an operator that is killed at any of them goes on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
from tests.worlds import CREDENTIALS, SPEC, as_stored, at_rest, healthy_look, nothing_yet, with_server

from cachepolicy import names
from cachepolicy.acknowledgement import Acknowledgement, Member
from cachepolicy.names import Role
from cachepolicy_operator import rotation
from cachepolicy_operator.decide import decide
from cachepolicy_operator.observed import Observed, id_of
from cachepolicy_operator.redis_look import Look
from cachepolicy_operator.resources import Credentials, found_in
from cachepolicy_operator.resources.acl import core_hashes, password_hash

OLD = CREDENTIALS.core_password


def report(*passwords: str) -> list[tuple[Member, Acknowledgement]]:
    """Processes of Core that each use one password."""
    return [
        (Member("core", number, "n"), Acknowledgement("r", 1, "1.1", credential=password_hash(word)[:12]))
        for number, word in enumerate(passwords)
    ]


def look(*passwords: str) -> Look:
    """A server whose user ``core`` has these passwords."""
    users = {names.USER_CORE: frozenset(map(password_hash, passwords))}
    return replace(healthy_look(at_rest(), Role.STATE), users=users)


def step(
    credentials: Credentials,
    request: str | None = "1",
    *,
    looks: dict[object, Look | None] | None = None,
    reports: list[tuple[Member, Acknowledgement]] | None = None,
) -> rotation.Step:
    return rotation.step(credentials, request, lambda: "new-word", looks or {}, reports)


def test_without_a_request_nothing_happens() -> None:
    assert step(CREDENTIALS, None) == rotation.Step(CREDENTIALS)
    done = replace(CREDENTIALS, rotation="1")
    assert step(done, "1") == rotation.Step(done), "one that was carried out is not carried out again"
    assert step(done, None) == rotation.Step(done), "nor is one that was taken away"


def test_the_new_password_comes_beside_the_old_one_and_core_is_not_told_yet() -> None:
    found = step(CREDENTIALS)
    assert found.begun
    assert found.credentials.core_password == OLD
    assert core_hashes(found.credentials) == {password_hash(OLD), password_hash("new-word")}


def test_core_is_told_only_when_every_server_takes_both() -> None:
    begun = step(CREDENTIALS).credentials
    both, old = look(OLD, "new-word"), look(OLD)
    assert step(begun, looks={"a": both, "b": old}).credentials == begun
    assert step(begun, looks={"a": both, "b": None}).credentials == begun
    told = step(begun, looks={"a": both, "b": both}).credentials
    assert told.core_password == "new-word"
    assert core_hashes(told) == {password_hash(OLD), password_hash("new-word")}, "the old one still opens"


def test_the_old_one_goes_when_every_process_uses_the_new_one() -> None:
    told = replace(
        CREDENTIALS,
        core_password="new-word",
        next_core="new-word",
        retiring_core=password_hash(OLD),
        rotation="1",
    )
    waiting = step(told, reports=report("new-word", OLD))
    assert (waiting.credentials, waiting.finished) == (told, False)
    assert waiting.waiting == "1 processes of Core do not use the new password yet"
    assert step(told, reports=None).credentials == told, "nobody can be asked"
    finished = step(told, reports=report("new-word", "new-word"))
    assert finished.finished
    assert core_hashes(finished.credentials) == {password_hash("new-word")}
    assert step(finished.credentials) == rotation.Step(finished.credentials)


def test_a_second_request_waits_for_the_first_to_end() -> None:
    begun = step(CREDENTIALS, "1").credentials
    assert step(begun, "2", looks={"a": look(OLD)}).credentials == begun
    done = replace(CREDENTIALS, rotation="1")
    assert step(done, "2").begun


@dataclass
class Cluster:
    """Secrets, Redis and Core, with an operator that may be killed after each write; Core follows its Secret at once."""

    world: Observed

    def reconcile(self, *, writes: int | None = None) -> bool:
        """Carry out a plan; with ``writes`` only so many Secrets, and then it is killed. True if it did anything."""
        world = replace(self.world, spare_token=f"word-{next(_COUNTER)}")
        plan = decide(self._seen(world))
        secrets = [write.obj for write in plan.writes if write.obj["kind"] == "Secret"]
        done = secrets if writes is None else secrets[:writes]
        objects = {**self.world.objects, **{id_of(obj): as_stored(obj) for obj in done}}
        self.world = replace(self.world, objects=objects)
        self.world = replace(self.world, credentials=self._read())
        if writes is None:
            for role, server in plan.servers.items():
                if names.USER_CORE in server.users:
                    hashes = {rule[1:] for rule in server.users[names.USER_CORE] if rule.startswith("#")}
                    self._set(role, frozenset(hashes))
        self.check()
        return bool(done)

    def check(self) -> None:
        """Whatever Core's file holds opens every server, at every moment."""
        password = password_hash(self.world.credentials.core_password)
        for role in Role:
            seen = self.world.server(role).look
            assert seen is not None
            assert password in seen.users[names.USER_CORE], "Core is locked out"

    def _seen(self, world: Observed) -> Observed:
        control = world.server(Role.STATE).look
        assert control is not None
        reports = tuple(report(world.credentials.core_password))
        return with_server(world, Role.STATE, seen=replace(control, acknowledgements=reports))

    def _set(self, role: Role, hashes: frozenset[str]) -> None:
        seen = self.world.server(role).look
        assert seen is not None
        users = {**seen.users, names.USER_CORE: hashes}
        self.world = with_server(self.world, role, seen=replace(seen, users=users))

    def _read(self) -> Credentials:
        secrets = self.world.objects
        return found_in(
            secrets["Secret", names.redis_auth_secret("core")],
            secrets["Secret", names.core_secret("core")],
            secrets["Secret", names.core_keys_secret("core")],
        ).complete(lambda: pytest.fail("a password was made anew"))


_COUNTER = itertools.count()


def requested(value: str) -> Cluster:
    world = at_rest(SPEC)
    metadata = {**world.policy["metadata"], "annotations": {names.ANNOTATION_ROTATE: value}}
    return Cluster(replace(world, policy={**world.policy, "metadata": metadata}))


def test_a_rotation_ends_with_a_new_password_and_only_that() -> None:
    cluster = requested("now")
    for _ in range(8):
        cluster.reconcile()
    credentials = cluster.world.credentials
    assert credentials.core_password != OLD
    assert (credentials.next_core, credentials.retiring_core, credentials.rotation) == (None, None, "now")
    for role in Role:
        seen = cluster.world.server(role).look
        assert seen is not None
        assert seen.users[names.USER_CORE] == {password_hash(credentials.core_password)}
    assert not cluster.reconcile(), "and then nothing more"


@pytest.mark.parametrize("kills", tuple(itertools.combinations(range(6), 2)), ids=str)
@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_an_operator_killed_at_any_step_goes_on_and_nobody_is_locked_out(
    kills: tuple[int, int], writes: int
) -> None:
    """Killed in two of its reconciles after so many Secrets, before Redis was told anything."""
    cluster = requested("now")
    for number in range(14):
        cluster.reconcile(writes=writes if number in kills else None)
    assert cluster.world.credentials.rotation == "now"
    assert cluster.world.credentials.next_core is None
    assert cluster.world.credentials.core_password != OLD


def test_a_rotation_restarts_no_pod() -> None:
    cluster = requested("now")
    before = cluster.world.objects["StatefulSet", "core-state"]
    for _ in range(8):
        plan = decide(cluster._seen(replace(cluster.world, spare_token="x")))
        assert not [write for write in plan.writes if write.obj["kind"] == "StatefulSet"]
        cluster.reconcile()
    assert cluster.world.objects["StatefulSet", "core-state"] == before


def test_a_request_on_a_new_policy_is_no_reason_for_two_passwords() -> None:
    """Annotated from the first day on: it is carried out once, as soon as there is a server."""
    world = nothing_yet()
    metadata = {**world.policy["metadata"], "annotations": {names.ANNOTATION_ROTATE: "first"}}
    plan = decide(replace(world, spare_token="x", policy={**world.policy, "metadata": metadata}))
    assert plan.rotating
