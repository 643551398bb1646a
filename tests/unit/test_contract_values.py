"""Durations, quantities and keys: what is read, what is refused, and that nothing breaks out of a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachepolicy.durations import Duration
from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout, by_value, encode, slot, tenant_scope
from cachepolicy.quantities import Quantity


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("90s", 90_000),
        ("1h30m", 5_400_000),
        ("720h", 2_592_000_000),
        ("10ms", 10),
        ("1m5ms", 60_005),
        ("0s", 0),
    ],
)
def test_durations_are_read_to_the_millisecond(text: str, milliseconds: int) -> None:
    assert Duration.parse(text).milliseconds == milliseconds


@pytest.mark.parametrize("text", ["", "1d", "1.5h", "-1s", "10", "s", "1h1h1h1h1h", "123456s", " 1s", "1s\n"])
def test_what_gep_2257_does_not_allow_is_refused_with_what_it_does(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s, 1h30m or 720h"):
        Duration.parse(text)


@given(st.integers(0, 99_999 * 3_600_000))
def test_the_canonical_spelling_of_a_duration_reads_back(milliseconds: int) -> None:
    assert Duration.parse(str(Duration(milliseconds))).milliseconds == milliseconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("128Mi", 128 << 20),
        ("1Gi", 1 << 30),
        ("500M", 500_000_000),
        ("1e3", 1000),
        (5, 5),
        ("1.5Ki", 1536),
        ("1m", 1),
    ],
)
def test_quantities_count_bytes_as_kubernetes_does(text: str | int, value: int) -> None:
    assert Quantity.parse(text).bytes == value


@pytest.mark.parametrize("text", ["", "-1Mi", "1 Mi", "1MiB", "Mi", "1e3Mi", "0x10", "1Mi\n", -5])
def test_what_is_no_quantity_is_refused_with_an_example(text: str | int) -> None:
    with pytest.raises(ValueError, match="for example 128Mi"):
        Quantity.parse(text)


def test_quantities_compare_by_value_and_keep_their_spelling() -> None:
    assert Quantity.parse("1Gi") == Quantity.parse("1024Mi")
    assert str(Quantity.parse("1024Mi")) == "1024Mi"


LAYOUT = KeyLayout.of_policy("masterclaw", "core")


@given(st.text(min_size=1), st.text(min_size=1))
def test_no_tenant_breaks_out_of_its_hash_tag_or_shares_another_tenants_keys(one: str, other: str) -> None:
    """The hash tag is exactly the encoded tenant, whatever braces, stars or colons the tenant holds."""
    key = LAYOUT.response(tenant_scope(one), "openai", "d1")
    assert key.count("{") == key.count("}") == 1
    assert not set("*?[]\\ \n") & set(key)
    same = key == LAYOUT.response(tenant_scope(other), "openai", "d1")
    assert same == (one == other)


@given(st.text(min_size=1), st.text(min_size=1))
def test_all_cache_keys_of_one_tenant_share_a_slot(tenant: str, model: str) -> None:
    """A script over several of them must run in a Redis Cluster."""
    scope = tenant_scope(tenant)
    assert len({slot(LAYOUT.response(scope, model, "a")), slot(LAYOUT.embedding(scope, model, "b"))}) == 1


def test_slots_are_those_of_the_redis_cluster_specification() -> None:
    assert slot("123456789") == 0x31C3 % 16384
    assert slot("{user1000}.following") == slot("{user1000}.followers") == slot("user1000")
    assert slot("foo{}{bar}") != slot("bar")
    assert slot("foo{{bar}}zap") == slot("{bar")


def test_an_empty_part_of_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        encode("")
    with pytest.raises(ValueError, match="must not be empty"):
        by_value("Tenant", "")
    with pytest.raises(ValueError, match="must not be empty"):
        LAYOUT.user_sessions(Identity("acme"))


def test_a_limit_counts_by_its_by_values_and_nothing_else() -> None:
    by = (by_value("Tenant", "a}b"), by_value("User", "x&y"))
    assert LAYOUT.limit("per-user", 60_000, by) == "masterclaw/core:w:per-user:60000:tenant=a%7Db&user=x%26y"


@pytest.mark.parametrize("prefix", ["", "Upper", "a b", "a*", "-a", "a{b}", "x" * 129])
def test_a_prefix_that_could_be_a_pattern_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="key prefix"):
        KeyLayout(prefix)


def test_what_core_must_not_write_lies_outside_its_prefix() -> None:
    """The ACL grants core ``P:*``: the document is not below it, everything else is."""
    assert not LAYOUT.document.startswith(f"{LAYOUT.prefix}:")
    for key in (
        LAYOUT.acknowledgements,
        LAYOUT.stamps,
        LAYOUT.epoch,
        LAYOUT.wake_channel,
        LAYOUT.session("ab"),
    ):
        assert key.startswith(f"{LAYOUT.prefix}:")


@pytest.mark.parametrize(
    "values", [{"tenant": ""}, {"tenant": "a", "user": ""}, {"tenant": "a", "api_key_id": ""}]
)
def test_an_identity_has_no_empty_part(values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        Identity(**values)
