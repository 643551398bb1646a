"""Purge stamps: a changed stamp empties exactly the scopes that it covers."""

from __future__ import annotations

import pytest

from cachepolicy.caches import Purge
from cachepolicy.stamps import Scope, combine, covering_scopes

ENTRY = Scope(kind="responses", tenant="acme", provider="openai", model="gpt-x")
STAMPS = {"all": "1-a"}


@pytest.mark.parametrize(
    "purged",
    [
        Scope(),
        Scope(kind="responses"),
        Scope(tenant="acme"),
        Scope(provider="openai"),
        Scope(provider="openai", model="gpt-x"),
        Scope(kind="responses", tenant="acme", provider="openai", model="gpt-x"),
    ],
)
def test_purging_a_scope_that_covers_an_entry_changes_its_stamp(purged: Scope) -> None:
    assert combine(ENTRY, STAMPS | {purged.stamp_field: "2"}, None) != combine(ENTRY, STAMPS, None)


@pytest.mark.parametrize(
    "purged",
    [
        Scope(kind="embeddings"),
        Scope(tenant="other"),
        Scope(provider="anthropic"),
        Scope(provider="openai", model="gpt-y"),
        Scope(tenant="acme", provider="anthropic"),
    ],
)
def test_purging_another_scope_leaves_it_alone(purged: Scope) -> None:
    assert combine(ENTRY, STAMPS | {purged.stamp_field: "2"}, None) == combine(ENTRY, STAMPS, None)


def test_a_lost_hash_makes_everything_a_miss() -> None:
    """The field ``all`` is made anew with another value."""
    assert combine(ENTRY, {"all": "9-b"}, None) != combine(ENTRY, STAMPS, None)


def test_the_policys_own_purge_values_count_too() -> None:
    stamps = {
        combine(ENTRY, STAMPS, purge) for purge in (None, Purge(all="1"), Purge(providers={"openai": "1"}))
    }
    assert len(stamps) == 3
    assert combine(ENTRY, STAMPS, Purge(providers={"anthropic": "1"})) == combine(ENTRY, STAMPS, Purge())


def test_a_tenant_cannot_name_another_scope() -> None:
    """``&`` and ``=`` in a value stay inside it."""
    assert Scope(tenant="a&provider=openai").stamp_field != Scope(tenant="a", provider="openai").stamp_field


def test_an_entry_is_covered_by_every_combination_of_its_parts() -> None:
    assert len(set(covering_scopes(ENTRY))) == 16
