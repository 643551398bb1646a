"""The background of a process: what it refreshes, what it says, and that an outage does not end it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cachepolicy.acknowledgement import Acknowledgement, Member
from cachepolicy.document import CONTRACT, Reading, build_document
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy_runtime.control import SPENDING, STAMPS_STALE_S, Control, credential_digest
from cachepolicy_runtime.policy import PolicySource
from cachepolicy_runtime.store.memory import MemoryControlStore
from cachepolicy_runtime.store.port import Beat, StoreUnavailable

MEMBER = Member("core-0", 7, "n")


class Shared(MemoryControlStore):
    """Control keys in memory that can be away, and that keep what was acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.up = True
        self.copy: bytes | None = None
        self.records: list[Acknowledgement | None] = []
        self.asked: list[str] = []
        self.seen = 0

    def _ask(self, verb: str) -> None:
        if not self.up:
            raise StoreUnavailable("state", "connection refused")
        self.asked.append(verb)

    async def stamps(self, *, seen: int = 0) -> dict[str, str]:
        self._ask("stamps")
        self.seen = seen
        return await super().stamps(seen=seen)

    async def set_stamps(self, fields: Sequence[str], *, seen: int = 0, revision: str = "") -> dict[str, str]:
        self._ask("set_stamps")
        return await super().set_stamps(fields, seen=seen, revision=revision)

    async def acknowledge(self, member: str, record: bytes) -> Beat:
        self._ask("acknowledge")
        self.records.append(Acknowledgement.from_json(record))
        return await super().acknowledge(member, record)

    async def document(self) -> bytes | None:
        self._ask("document")
        return self.copy

    async def withdraw(self, member: str) -> None:
        self._ask("withdraw")
        await super().withdraw(member)

    async def wakes(self) -> AsyncGenerator[None, None]:
        self._ask("wakes")
        async for _ in super().wakes():
            yield


class Scene:
    """A control whose clock the test moves."""

    def __init__(self, source: PolicySource | None = None) -> None:
        self.now = 100.0
        self.store = Shared()
        self.control = Control(MEMBER, self.store, source, lambda: credential_digest("pw"), lambda: self.now)

    async def pass_s(self, seconds: float) -> list[str]:
        """What is asked of the store while this time passes, looked at every half second."""
        self.store.asked.clear()
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            await self.control.beat()
        return self.store.asked


def reading(ttl: str = "10m", sequence: int = 1, **sections: Any) -> Reading:
    given = sections or {"sessions": {}, "responseCache": {"ttl": ttl}}
    spec = CachePolicySpec.model_validate({"redis": {"managed": {}}, **given})
    urls = {role: f"redis://core-{role}:6379" for role in Role}
    document = build_document(
        namespace="masterclaw",
        name="core",
        uid="u",
        spec=spec,
        endpoints=urls,
        previous=None,
        now_ms=sequence,
    )
    return Reading(document, ("some.field",))


async def test_stamps_are_looked_at_twice_a_second_and_what_is_enforced_is_said_every_two() -> None:
    scene = Scene()
    scene.control.applied(reading())
    await scene.control.beat()
    asked = await scene.pass_s(10)
    assert asked.count("stamps") == 20
    assert 5 <= asked.count("acknowledge") <= 6


async def test_only_installed_sections_of_the_policy_are_said_to_be_enforced() -> None:
    scene = Scene()
    scene.control.enforces("sessions")
    scene.control.enforces("rateLimits")
    policy = reading()
    scene.control.applied(policy)
    await scene.control.beat()
    assert scene.store.records == [
        Acknowledgement(
            revision=policy.document.revision,
            sequence=1,
            contract=CONTRACT,
            enforces=("sessions",),
            ignored=("some.field",),
            credential=credential_digest("pw"),
        )
    ]


async def test_limits_on_tokens_are_enforced_by_more_than_the_middleware() -> None:
    """A process that never asks what a call costs must not be taken for one that enforces them."""
    scene = Scene()
    tokens = {"by": [{"type": "Tenant"}], "unit": "Tokens", "rates": [{"limit": 10, "window": "1m"}]}
    scene.control.enforces("rateLimits")
    scene.control.applied(reading(rateLimits={"tokens": tokens}))
    await scene.control.beat()
    scene.control.enforces(SPENDING)
    await scene.control.beat()
    said = [record.enforces for record in scene.store.records if record]
    assert said == [(), ("rateLimits",)]


async def test_nothing_is_said_before_a_policy_is_applied() -> None:
    scene = Scene()
    await scene.control.beat()
    assert "acknowledge" not in await scene.pass_s(4)


async def test_a_change_is_said_at_once() -> None:
    scene = Scene()
    scene.control.applied(reading())
    await scene.control.beat()
    await scene.control.beat()
    scene.store.records.clear()
    scene.control.applied(reading("1m", 2))
    await scene.control.beat()
    assert [record.sequence for record in scene.store.records if record] == [2]


async def test_the_copy_is_taken_applied_and_said_in_one_round(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(reading().document.to_json())
    source = PolicySource(tmp_path)
    scene = Scene(source)
    source.subscribe(scene.control.applied)
    scene.store.copy = reading("1m", 2).document.to_json().encode()
    await scene.control.beat()
    assert [record.sequence for record in scene.store.records if record] == [2]


async def test_a_document_that_is_refused_is_said_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(reading().document.to_json())
    source = PolicySource(tmp_path)
    scene = Scene(source)
    source.subscribe(scene.control.applied)
    await scene.control.beat()
    path.write_text(json.dumps({"contract": "2.0"}))
    await scene.pass_s(3)
    last = scene.store.records[-1]
    assert last is not None
    assert last.sequence == 1
    assert "follows contract '2.0'" in str(last.refused)
    assert last.too_old


async def test_stamps_older_than_five_seconds_are_none_for_a_purge_could_have_been_missed() -> None:
    scene = Scene()
    assert scene.control.stamps is None
    await scene.control.beat()
    before = scene.control.stamps
    assert before is not None
    scene.store.up = False
    await scene.pass_s(STAMPS_STALE_S)
    assert scene.control.stamps == before
    await scene.pass_s(0.5)
    assert scene.control.stamps is None
    scene.store.up = True
    await scene.pass_s(0.5)
    assert scene.control.stamps == before


async def test_an_outage_ends_nothing_says_nothing_and_the_last_count_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    await scene.store.acknowledge("core-1/1/x", b"{}")
    scene.control.applied(reading())
    await scene.control.beat()
    assert (scene.control.live, scene.control.epoch != "") == (2, True)
    scene.store.up = False
    await scene.pass_s(60)
    assert scene.control.live == 2
    scene.store.up = True
    assert "acknowledge" in await scene.pass_s(0.5)
    assert caplog.records == []


async def test_another_store_starts_with_nothing_known() -> None:
    scene = Scene()
    scene.control.applied(reading())
    await scene.control.beat()
    other = Shared()
    scene.control.use(other)
    assert scene.control.stamps is None
    await scene.control.beat()
    assert other.asked == ["stamps", "acknowledge"]
    assert scene.control.stamps == await other.stamps()


async def test_clearing_changes_the_stamp_here_at_once_and_a_lost_wake_up_is_no_failure() -> None:
    scene = Scene()
    await scene.control.beat()
    before = scene.control.stamps
    await scene.control.clear(["all"])
    assert before is not None
    assert scene.control.stamps is not None
    assert scene.control.stamps["all"] != before["all"]
    scene.store.up = False
    with pytest.raises(StoreUnavailable):
        await scene.control.clear(["all"])


async def test_chores_are_done_with_each_acknowledgement_and_a_broken_one_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    done: list[float] = []

    async def chore() -> None:
        done.append(scene.now)
        raise RuntimeError("broken")

    scene.control.every_beat(chore)
    scene.control.applied(reading())
    await scene.pass_s(6)
    assert len(done) >= 3
    assert "RuntimeError: broken" in caplog.text


async def test_a_wake_up_shows_a_cleared_stamp_to_another_process_without_waiting() -> None:
    store = Shared()
    one, two = (Control(Member("core", number, "n"), store) for number in (1, 2))
    await one.start()
    await two.start()
    await asyncio.sleep(0)
    await one.clear(["all"])
    async with asyncio.timeout(0.4):
        while two.stamps != one.stamps:  # noqa: ASYNC110 - the other process has nothing to wait for
            await asyncio.sleep(0)
    await one.stop()
    await two.stop()
    assert store.asked.count("withdraw") == 2


async def test_stopping_while_the_store_is_away_is_quiet() -> None:
    scene = Scene()
    await scene.control.start()
    scene.store.up = False
    await scene.control.stop()


async def test_a_changed_value_of_the_policy_is_owed_until_the_store_has_it_and_is_renewed_once() -> None:
    """Both processes follow the document, the second one late; going back to an earlier value revives nothing."""
    scene, late = Scene(), Scene()
    late.control.use(scene.store)
    await scene.control.beat()
    before = scene.control.stamps
    scene.store.up = False
    scene.control.purged(("tenant=acme",), "r2")
    await scene.control.beat()
    scene.control.purged(("tag=faq",), "r3")
    await scene.control.beat()
    assert scene.control.stamps == before
    scene.store.up = True
    await scene.control.beat()
    renewed = scene.control.stamps
    assert before is not None
    assert renewed is not None
    assert set(renewed) == {*before, "tenant=acme", "tag=faq"}
    late.control.purged(("tag=faq",), "r3")
    await late.control.beat()
    assert late.control.stamps == renewed


async def test_the_store_is_told_the_newest_stamp_that_it_once_gave() -> None:
    """So that one which lost the last second can say so."""
    scene = Scene()
    scene.store._stamps = {"all": "1700000000.5-n"}
    await scene.pass_s(1)
    assert scene.store.seen == 1_700_000_000_000_005
