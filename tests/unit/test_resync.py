"""The resync asks for a reconcile exactly where something is not as it was at rest."""

from __future__ import annotations

import pytest

from cachepolicy_operator.observed import ObjectId
from cachepolicy_operator.resync import same_versions

KNOWN: dict[ObjectId, str] = {
    ("CachePolicy", "core"): "1",
    ("ConfigMap", "core-core"): "2",
    ("Secret", "core-core"): "3",
    ("Pod", "core-state-0"): "4",
}
LISTED: dict[ObjectId, str] = {
    ("CachePolicy", "core"): "1",
    ("ConfigMap", "core-core"): "2",
    ("Pod", "core-state-0"): "4",
}


def test_nothing_changed_is_nothing_to_do() -> None:
    """Secrets are never listed: that they are in no list is no difference."""
    assert same_versions(LISTED, KNOWN)


@pytest.mark.parametrize(
    "found",
    [
        pytest.param({**LISTED, ("ConfigMap", "core-core"): "5"}, id="changed"),
        pytest.param({("CachePolicy", "core"): "1"}, id="gone, and the watch missed it"),
        pytest.param({**LISTED, ("Service", "core-state"): "5"}, id="new"),
        pytest.param({}, id="the policy itself has gone"),
    ],
)
def test_a_difference_is_found(found: dict[ObjectId, str]) -> None:
    assert not same_versions(found, KNOWN)


def test_a_policy_that_was_never_at_rest_is_looked_at() -> None:
    assert not same_versions(LISTED, None)
