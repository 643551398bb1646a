"""Edits of the file that dev follows: good ones are applied, bad ones are told and change nothing."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cachepolicy_operator.dev import Follower
from cachepolicy_operator.local import LocalBackend
from cachepolicy_operator.policyfile import read_policies
from cachepolicy_operator.stack import Stack, StackOptions

TEXT = """\
apiVersion: cache.masterclaw.io/v1alpha1
kind: CachePolicy
metadata: {name: core, namespace: shop}
spec:
  redis: {managed: {state: {storage: {size: 2Gi, className: fast}}}}
  sessions: {idleTimeout: 5m}
"""


@dataclass
class Followed:
    file: Path
    backend: LocalBackend
    follower: Follower
    told: list[str]

    async def edit(self, old: str, new: str) -> str:
        """Edit the file, take a turn, and return what was told."""
        self.told.clear()
        self.file.write_text(self.file.read_text().replace(old, new) + "# an edit always changes the size\n")
        await self.follower.turn()
        return "\n".join(self.told)


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cp-", dir="/tmp") as folder:
        yield Path(folder).resolve()


@pytest.fixture
async def followed(root: Path) -> AsyncIterator[Followed]:
    told: list[str] = []
    file = root / "core.yaml"
    file.write_text(TEXT)
    manifest = read_policies(TEXT).policies[0]
    backend = LocalBackend(root / "data", told.append)
    async with Stack(backend, StackOptions(replicas=0)) as stack:
        await backend.apply(manifest)
        yield Followed(file, backend, Follower(stack, str(file), manifest, told.append), told)


async def test_an_edit_is_applied_with_a_new_revision(followed: Followed) -> None:
    before = followed.backend.document
    told = await followed.edit("5m", "6m")
    assert followed.backend.document is not None
    assert f"revision {followed.backend.document.revision} is out" in told
    assert followed.backend.document != before


async def test_an_edit_of_a_comment_alone_is_no_new_revision(followed: Followed) -> None:
    before = followed.backend.document
    assert "is out" not in await followed.edit("sessions", "sessions")
    assert followed.backend.document == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("idleTimeout", "idelTimeout", "spec.sessions.idelTimeout: unknown field; did you mean idleTimeout?"),
        ("sessions: {idleTimeout: 5m}", "sessions: [", "not YAML"),
        ("name: core", "name: other", "the file is now about shop/other; start dev anew"),
        ("size: 2Gi", "size: 1Gi", "spec.redis.managed.state.storage.size can only grow"),
        (", className: fast", "", "spec.redis.managed.state.storage.className cannot be changed"),
        ("{storage: {size: 2Gi, className: fast}}", "{}", "spec.redis.managed.state.storage cannot be"),
        (
            "storage: {size: 2Gi, className: fast}",
            "storage: {size: 2Gi, className: fast}, resources: {limits: {memory: 9Mi}}",
            "spec.redis.managed.state.resources.limits.memory: 9Mi is too small",
        ),
    ],
)
async def test_a_bad_edit_is_told_with_its_field_and_the_last_good_stays(
    followed: Followed, old: str, new: str, message: str
) -> None:
    before = followed.backend.document
    assert before is not None
    told = await followed.edit(old, new)
    assert message in told
    assert f"The file is not applied: revision {before.revision} stays." in told
    assert followed.backend.files.document() == before
    assert (
        "is out" in await followed.edit(new, old.replace("5m", "7m")) or followed.backend.document == before
    )


async def test_the_next_good_edit_after_a_bad_one_is_applied(followed: Followed) -> None:
    await followed.edit("5m", "5 minutes")
    assert "is out" in await followed.edit("5 minutes", "6m")


async def test_a_file_that_is_gone_for_a_moment_is_told_and_read_when_it_is_back(followed: Followed) -> None:
    text = followed.file.read_text()
    followed.file.unlink()
    await followed.follower.turn()
    assert any("No such file or directory" in line for line in followed.told)
    followed.file.write_text(text)
    assert "is out" in await followed.edit("5m", "6m")
