"""What the cache did and saved, as statistics show it."""

from __future__ import annotations

import json

from cachepolicy.prices import Prices
from cachepolicy_runtime.response_counts import MAX_MODELS, OTHER, ResponseCounts
from cachepolicy_runtime.response_entries import Facts
from cachepolicy_runtime.usage import Usage

PRICES = Prices.model_validate(
    {
        "currency": "EUR",
        "providers": {"openai": {"models": {"m": {"input": 1, "cachedInput": "0.5", "output": "4.25"}}}},
    }
)
FACTS = Facts.of((), Usage(1000, 200, 400), 1500)


def test_hits_add_up_to_tokens_seconds_and_money() -> None:
    """By the price of each model; cached input has its own."""
    counts = ResponseCounts(lambda: PRICES)
    for _ in range(3):
        counts.of("openai", "m").hit(FACTS)
    assert counts.as_dict()["savings"] == {
        "inputTokens": 3000,
        "cachedInputTokens": 600,
        "outputTokens": 1200,
        "seconds": 4.5,
        "cost": 0.0084,
        "currency": "EUR",
    }


def test_a_model_without_a_price_saves_tokens_and_no_money() -> None:
    counts = ResponseCounts(lambda: PRICES)
    counts.of("openai", "unknown").hit(FACTS)
    savings = counts.as_dict()["savings"]
    assert isinstance(savings, dict)
    assert (savings["inputTokens"], savings["cost"]) == (1000, 0.0)


def test_without_a_table_there_is_no_sum() -> None:
    counts = ResponseCounts()
    counts.of("openai", "m").hit(FACTS)
    savings = counts.as_dict()["savings"]
    assert isinstance(savings, dict)
    assert (savings["cost"], savings["currency"]) == (None, None)


def test_input_that_the_provider_had_cached_costs_as_input_where_no_price_says_otherwise() -> None:
    price = Prices.model_validate({"providers": {"p": {"models": {"m": {"input": 2, "output": 0}}}}}).of(
        "p", "m"
    )
    assert price is not None
    assert price.of(500_000, 500_000, 1) == 2


def test_lookups_are_counted_by_provider_and_model() -> None:
    counts = ResponseCounts()
    counts.of("openai", "a").hit(FACTS)
    counts.of("openai", "b").misses += 1
    counts.of("anthropic", None).misses += 1
    shown = counts.as_dict()
    assert (shown["hits"], shown["misses"], shown["ratio"]) == (1, 2, 0.3333)
    assert shown["providers"] == {
        "anthropic": {
            "hits": 0,
            "misses": 1,
            "ratio": 0.0,
            "models": {OTHER: {"hits": 0, "misses": 1, "ratio": 0.0}},
        },
        "openai": {
            "hits": 1,
            "misses": 1,
            "ratio": 0.5,
            "models": {
                "a": {"hits": 1, "misses": 0, "ratio": 1.0},
                "b": {"hits": 0, "misses": 1, "ratio": 0.0},
            },
        },
    }
    json.dumps(shown)


def test_names_that_callers_choose_do_not_grow_without_end() -> None:
    counts = ResponseCounts()
    for number in range(1000):
        counts.of("openai", f"m{number}").misses += 1
        counts.of(f"p{number}", "m").misses += 1
    assert len(counts.models["openai"]) == MAX_MODELS + 1
    assert len(counts.models) <= 65
    assert counts.as_dict()["misses"] == 2000
