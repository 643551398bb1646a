"""Purge stamps: a changed stamp empties exactly the scopes that it covers."""

from __future__ import annotations

import pytest

from cachepolicy import capabilities
from cachepolicy.purge import Purge, PurgeKinds, changed
from cachepolicy.stamps import MAX_TAGS, Scope, combine, covering_fields, newest, shapes_of, tags_of, within

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
    """32 shapes; each of two tags stands for itself, and each shape with parts for all of its values."""
    fields = {
        scope.stamp_field
        for kind in (None, "responses")
        for tenant in (None, "acme")
        for provider in (None, "openai")
        for model in (None, "gpt-x")
        for tag in ((), ("a",), ("b",))
        for scope in [Scope(kind, tenant, provider, model, tag)]
    }
    shapes = shapes_of(dict.fromkeys(fields, "1"))
    tagged = Scope("responses", "acme", "openai", "gpt-x", ("a", "b"))
    assert len(shapes) == 32
    assert set(covering_fields(tagged, shapes)) == fields | (shapes - {"all"})
    assert not any("tag" in field for field in covering_fields(ENTRY, shapes))


@pytest.mark.parametrize("purged", [Scope(tags=("b",)), Scope(tenant="acme", tags=("a",))])
def test_a_tag_reaches_every_entry_that_carries_it(purged: Scope) -> None:
    """And none that does not."""
    tagged = Scope("responses", "acme", "openai", "gpt-x", tags_of(["b", "a"]))
    renewed = STAMPS | {purged.stamp_field: "2"}
    assert combine(tagged, renewed, None) != combine(tagged, STAMPS, None)
    assert combine(ENTRY, renewed, None) == combine(ENTRY, STAMPS, None)
    other = Scope("responses", "acme", "openai", "gpt-x", ("c",))
    assert combine(other, renewed, None) == combine(other, STAMPS, None)


def test_a_field_for_all_values_covers_what_has_these_parts() -> None:
    """What many narrow scopes were folded into."""
    folded = STAMPS | {"tenant=*&tag=*": "2"}
    tagged = Scope("responses", "acme", tags=("a",))
    assert combine(tagged, folded, None) != combine(tagged, STAMPS, None)
    assert combine(ENTRY, folded, None) == combine(ENTRY, STAMPS, None)
    assert Scope(tenant="*").stamp_field != "tenant=*"


def test_entries_from_before_there_were_tags_keep_their_stamp() -> None:
    """The digest of a stored entry is part of the contract."""
    stamps = {"all": "1-a", "kind=responses&model=gpt-x": "3", "tenant=other": "4"}
    assert combine(ENTRY, stamps, Purge(all="7", providers={"openai": "8"})) == "270498e4b88947f3"


@pytest.mark.parametrize(
    "purge",
    [
        Purge(kinds=PurgeKinds(responses="1")),
        Purge(tenants={"acme": "1"}),
        Purge(models={"gpt-x": "1"}),
        Purge(tags={"b": "1"}),
    ],
)
def test_every_value_of_the_policy_empties_its_own_scope(purge: Purge) -> None:
    tagged = Scope("responses", "acme", "openai", "gpt-x", ("a", "b"))
    other = Scope("embeddings", "globex", "openai", "gpt-y", ("a",))
    assert combine(tagged, STAMPS, purge) != combine(tagged, STAMPS, None)
    assert combine(other, STAMPS, purge) == combine(other, STAMPS, None)
    assert purge.requires == (capabilities.PURGE, capabilities.PURGE_SCOPES)


def test_old_readers_are_not_asked_for_more_than_they_need() -> None:
    assert Purge(all="1", providers={"openai": "1"}).requires == (capabilities.PURGE,)


def test_values_that_come_change_or_go_are_renewed() -> None:
    """Going back to an earlier value must not bring back what was stored then."""
    before = Purge(all="1", tenants={"acme": "1", "globex": "1"}, tags={"faq": "1"})
    after = Purge(all="1", tenants={"acme": "2"}, models={"m": "1"}, tags={"faq": "1"})
    assert changed(before, after) == ("model=m", "tenant=acme", "tenant=globex")
    assert changed(None, Purge(all="1")) == ("all",)
    assert changed(after, after) == ()


@pytest.mark.parametrize("tags", [["t" * 65], [""], [f"t{number}" for number in range(MAX_TAGS + 1)]])
def test_tags_are_bounded(tags: list[str]) -> None:
    with pytest.raises(ValueError, match="tag"):
        tags_of(tags)
    assert tags_of(["b", "a", "b"]) == ("a", "b")


def test_a_scope_to_be_purged_names_one_tag() -> None:
    with pytest.raises(ValueError, match="at most one tag"):
        _ = Scope(tags=("a", "b")).stamp_field


def test_scopes_lie_within_wider_ones() -> None:
    narrow = "tenant=acme&model=m&tag=t"
    assert all(within(narrow, wider) for wider in ("all", "model=m", "tenant=acme&tag=t", narrow))
    assert not any(within(narrow, other) for other in ("tenant=acm", "model=m&kind=responses", "document"))
    assert not within("document", "all")


def test_the_newest_stamp_is_known_by_its_moment() -> None:
    """Microseconds are not padded, as Redis writes them."""
    assert newest({"all": "1700000000.5-n", "tenant=a": "1699999999.999999-n"}) == 1_700_000_000_000_005
    assert newest({"all": "of a process", "document": "17"}) == 0
