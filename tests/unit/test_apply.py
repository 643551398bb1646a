"""Objects that were edited in a way that no apply can repair."""

from __future__ import annotations

from typing import Any, cast

import pytest

from cachepolicy_operator import errors
from cachepolicy_operator.apply import bring_about
from cachepolicy_operator.kube import Kube

WANT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "core-state", "namespace": "ns"},
}
LIVE = {**WANT, "metadata": {**WANT["metadata"], "uid": "u9"}}


class FakeKube:
    """Refuses the names in `refused`; remembers what was done."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.done: list[tuple[Any, ...]] = []

    async def apply(self, obj: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        name = obj["metadata"]["name"]
        self.done.append(("apply", name, dry_run))
        if name in self.refused:
            raise errors.Invalid(f"{name} is invalid")
        return obj

    async def delete(self, kind: Any, namespace: str, name: str, *, uid: str, propagation: str) -> bool:
        self.done.append(("delete", kind.name, name, uid, propagation))
        return True


async def bring(fake: FakeKube, live: dict[str, Any] | None) -> dict[str, Any]:
    return await bring_about(cast(Kube, fake), WANT, live)


async def test_an_ordinary_object_is_applied_once() -> None:
    """No trial, no deletion."""
    fake = FakeKube()
    assert await bring(fake, LIVE) == WANT
    assert fake.done == [("apply", "core-state", False)]


async def test_an_object_edited_beyond_repair_is_made_anew() -> None:
    """Deleted by uid with its dependents left alone, and only after a trial that it would be accepted."""
    fake = FakeKube("core-state")
    with pytest.raises(errors.Superseded, match="made anew"):
        await bring(fake, LIVE)
    assert fake.done == [
        ("apply", "core-state", False),
        ("apply", "core-state-trial", True),
        ("delete", "Service", "core-state", "u9", "Orphan"),
    ]


@pytest.mark.parametrize("live", [LIVE, None])
async def test_an_object_that_is_invalid_by_itself_is_never_deleted_for_it(
    live: dict[str, Any] | None,
) -> None:
    """A mistake in the CachePolicy must not take down what runs."""
    fake = FakeKube("core-state", "core-state-trial")
    with pytest.raises(errors.Invalid):
        await bring(fake, live)
    assert not [step for step in fake.done if step[0] == "delete"]
