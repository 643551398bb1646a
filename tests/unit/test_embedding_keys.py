"""The names of embeddings: one for each meaning, and inputs in every form that the API takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.caches import LAYOUT, SECRET

from cachepolicy_runtime.embedding_keys import EmbeddingQuery, identities, inputs_of, names
from cachepolicy_runtime.keys import CacheSecret
from cachepolicy_runtime.vectors import FLOAT16, FLOAT32

QUERY = EmbeddingQuery("m")
texts = st.text(max_size=5)
tokens = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4)


def name(
    item: Any = "text",
    query: EmbeddingQuery = QUERY,
    *,
    scope: str = "acme",
    stored_as: str = FLOAT32,
    secret: CacheSecret = SECRET,
) -> str:
    return names(secret, LAYOUT, scope, query, [item], stored_as=stored_as)[0]


def test_everything_that_changes_a_vector_is_part_of_its_name() -> None:
    found = [
        name(),
        name("Text"),
        name("text "),
        name(query=replace(QUERY, model="m2")),
        name(query=replace(QUERY, provider="openai")),
        name(query=replace(QUERY, dimensions=256)),
        name(query=replace(QUERY, input_type="query")),
        name(stored_as=FLOAT16),
        name(scope="other"),
        name(secret=CacheSecret.derive(b"another key of a test, as long")),
    ]
    assert len(set(found)) == len(found)
    assert name() == name()


@given(st.lists(texts | tokens.map(tuple), unique=True, max_size=6))
def test_two_inputs_have_two_names(inputs: list[Any]) -> None:
    """A text is never taken for tokens, whatever its bytes are, and each name is the one that it has alone."""
    found = names(SECRET, LAYOUT, "acme", QUERY, inputs, stored_as=FLOAT32)
    assert len(set(found)) == len(inputs)
    assert found == [name(item) for item in inputs]


def test_tokens_are_never_taken_for_a_text() -> None:
    """Not for the text of the same bytes either."""
    assert name([0x41]) not in {name("A"), name("A\0\0\0\0\0\0\0"), name("iA\0\0\0\0\0\0\0")}


def test_a_name_is_where_the_layout_says() -> None:
    assert name(query=EmbeddingQuery("a/b")).startswith(LAYOUT.embedding("acme", "a/b", ""))


@pytest.mark.parametrize(
    ("given_", "inputs"),
    [
        ("text", ["text"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        (("a",), ["a"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ([], []),
    ],
)
def test_inputs_in_every_form_of_the_api(given_: Any, inputs: list[Any]) -> None:
    assert inputs_of(given_) == inputs


@pytest.mark.parametrize(
    "given_",
    [
        None,
        1,
        b"ab",
        {"a": 1},
        [1.0],
        [True],
        ["a", 1],
        ["a", [1]],
        [[1], "a"],
        [[]],
        [["a"]],
        [[True]],
        [-1],
        [2**64],
    ],
    ids=repr,
)
def test_other_inputs_are_refused_and_not_repeated(given_: Any) -> None:
    with pytest.raises(ValueError, match="inputs are a text, a list of texts") as refused:
        inputs_of(given_)
    assert repr(given_) not in str(refused.value)


def test_identities_tell_lists_of_tokens_apart() -> None:
    assert identities([[1, 2], [1, 2], [3]]) == [(1, 2), (1, 2), (3,)]
    assert identities(["a", "b"]) == ["a", "b"]
