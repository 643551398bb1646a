"""Which document is in force, and what is said about one that cannot be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cachepolicy.document import Reading, build_document
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec
from cachepolicy_runtime.policy import PolicySource

LOGGER = "cachepolicy.policy"


def document(ttl: str = "10m", sequence: int = 1_000, uid: str = "uid-1", **changes: Any) -> bytes:
    spec = CachePolicySpec.model_validate({"redis": {"managed": {}}, "responseCache": {"ttl": ttl}})
    built = build_document(
        namespace="masterclaw",
        name="core",
        uid=uid,
        spec=spec,
        endpoints={Role.CACHE: "redis://core-cache:6379"},
        previous=None,
        now_ms=sequence,
    )
    return json.dumps({**json.loads(built.to_json()), **changes}).encode()


class Mounted:
    """A policy directory as Kubernetes mounts it: ``policy.json`` is a link through ``..data``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.versions = 0
        self.source = PolicySource(root)
        self.taken: list[Reading] = []
        self.source.subscribe(self.taken.append)

    def swap(self, data: bytes) -> None:
        """What the kubelet does: a new folder, and one rename of the link to it."""
        self.versions += 1
        version = self.root / f"..version-{self.versions}"
        version.mkdir()
        (version / "policy.json").write_bytes(data)
        (self.root / "..new").symlink_to(version.name)
        os.replace(self.root / "..new", self.root / "..data")
        if not (self.root / "policy.json").is_symlink():
            (self.root / "policy.json").symlink_to("..data/policy.json")
        self.source.look()

    @property
    def ttl(self) -> str | None:
        current = self.source.current
        cache = current.document.response_cache if current else None
        return str(cache.ttl) if cache else None


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    return Mounted(tmp_path)


def test_a_change_is_followed_through_the_link_and_told_once(mounted: Mounted) -> None:
    for ttl in ("1m", "2m", "2m"):
        mounted.swap(document(ttl))
        mounted.source.look()
    assert mounted.ttl == "2m"
    assert len(mounted.taken) == 2


def test_without_a_policy_it_says_so_once_and_takes_it_when_it_comes(
    mounted: Mounted, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        mounted.source.look()
    assert [record.message for record in caplog.records] == [
        f"no policy yet: policy.json is not in {mounted.root}; until there is a policy everything works from memory"
    ]
    mounted.swap(document())
    assert mounted.source.refused is None
    assert mounted.ttl == "10m"


GOOD = document("5m")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "policy.json is empty"),
        (b" \n", "policy.json is empty"),
        (GOOD[:100], "policy.json is cut off or not JSON"),
        (b"[]", "policy.json must hold one JSON object"),
        (b"{}", "policy.json has no field contract"),
        (document(contract="2.0"), "follows contract '2.0' and this runtime reads 1.x"),
        (
            document(requires=["rateLimits/telepathy"]),
            "requires rateLimits/telepathy, which this runtime lacks",
        ),
        (document(responseCache={"ttl": "soon"}), "responseCache.ttl: 'soon' is not a duration"),
    ],
)
def test_a_bad_document_keeps_the_last_good_one_and_says_once_what_is_wrong(
    mounted: Mounted, caplog: pytest.LogCaptureFixture, data: bytes, sentence: str
) -> None:
    mounted.swap(GOOD)
    caplog.clear()
    mounted.swap(data)
    mounted.source.look()
    (record,) = caplog.records
    assert sentence in record.message
    assert record.message.endswith(f"revision {json.loads(GOOD)['revision']} stays in force")
    assert sentence in str(mounted.source.refused)
    assert mounted.ttl == "5m"
    mounted.swap(document("7m"))
    assert mounted.ttl == "7m"
    assert str(mounted.source.refused) == "None"


def test_a_document_that_is_gone_stays_in_force(mounted: Mounted, caplog: pytest.LogCaptureFixture) -> None:
    mounted.swap(GOOD)
    (mounted.root / "policy.json").unlink()
    for _ in range(2):
        mounted.source.look()
    assert sum("policy.json is gone" in record.message for record in caplog.records) == 1
    assert mounted.ttl == "5m"


def test_the_same_document_again_after_a_bad_one_is_no_news(mounted: Mounted) -> None:
    mounted.swap(GOOD)
    mounted.swap(b"")
    mounted.swap(GOOD)
    assert mounted.source.refused is None
    assert len(mounted.taken) == 1


def test_a_missing_directory_and_one_that_cannot_be_read_are_told_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    PolicySource(tmp_path / "none").look()
    (tmp_path / "file").write_text("")
    PolicySource(tmp_path / "file").look()
    missing, unreadable = (record.message for record in caplog.records)
    assert f"there is no directory {tmp_path / 'none'}" in missing
    assert f"{tmp_path / 'file'} cannot be read (Not a directory)" in unreadable


def test_an_optional_field_that_is_not_known_is_left_out_and_named(
    mounted: Mounted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", LOGGER)
    mounted.swap(document(responseCache={"ttl": "3m", "teleport": {"ttl": "1s"}}))
    assert mounted.ttl == "3m"
    assert "does not know: responseCache.teleport" in caplog.text


# --- the operator's copy


def test_a_newer_copy_of_the_same_policy_comes_into_force_at_once(mounted: Mounted) -> None:
    mounted.swap(document("1m", sequence=1))
    mounted.source.offer(document("2m", sequence=2))
    assert mounted.ttl == "2m"
    mounted.swap(document("2m", sequence=2))
    assert len(mounted.taken) == 2
    mounted.swap(document("3m", sequence=3))
    assert mounted.ttl == "3m"


@pytest.mark.parametrize(
    "copy",
    [
        document("2m", sequence=1),
        document("2m", sequence=0),
        document("2m", sequence=9, uid="another"),
        document("2m", sequence=9, contract="9.0"),
        b"",
        b"garbage",
        None,
    ],
)
def test_a_copy_that_is_older_of_another_policy_or_bad_changes_nothing(
    mounted: Mounted, copy: bytes | None
) -> None:
    mounted.swap(document("1m", sequence=1))
    mounted.source.offer(copy)
    assert mounted.ttl == "1m"


def test_a_copy_without_a_mounted_document_is_not_taken(mounted: Mounted) -> None:
    mounted.source.offer(document("2m", sequence=9))
    assert mounted.source.current is None
    mounted.swap(document("1m", sequence=1))
    assert mounted.ttl == "2m"


def test_a_policy_made_anew_replaces_a_copy_of_the_old_one(mounted: Mounted) -> None:
    mounted.swap(document("1m", sequence=1))
    mounted.source.offer(document("2m", sequence=50))
    mounted.swap(document("3m", sequence=2, uid="uid-2"))
    assert mounted.ttl == "3m"
