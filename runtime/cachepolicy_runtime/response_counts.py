"""What the response cache of this process did, and what it saved: tokens, time and money."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from cachepolicy.prices import Prices
from cachepolicy_runtime.caching import Tally
from cachepolicy_runtime.response_entries import Facts

#: Callers name models: those beyond are counted together.
MAX_MODELS = 64
MAX_PROVIDERS = 64
OTHER = "other"


@dataclass(slots=True)
class ModelCounts:
    """Lookups of one model, and the tokens and the time of the calls that its hits made unnecessary."""

    hits: int = 0
    misses: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    saved_ms: int = 0

    def hit(self, facts: Facts) -> None:
        _, taken, cached, given, took_ms = facts
        self.hits += 1
        self.input_tokens += taken
        self.cached_input_tokens += cached
        self.output_tokens += given
        self.saved_ms += took_ms


@dataclass(slots=True)
class ResponseCounts:
    """Everything since this process started. Words are short reasons, never anything of a request.

    Attributes:
        prices: the current table; money is worked out when somebody looks.
        coalesced: hits that another request's call brought.
        local_hits: hits of the first level.
        stale_served: hits of what was over its time to live, ``stale_errors`` of them because the provider failed.
        refreshed: answers that were renewed in the background, ``refresh_failures`` those that were not.
        would_lookups, would_hits: lookups in mode Shadow, and those of them that Enforce would have served.
        would_differ: those of which the provider's answer said something else.
    """

    prices: Callable[[], Prices | None] = lambda: None
    models: dict[str, dict[str, ModelCounts]] = field(default_factory=dict)
    stored: int = 0
    bypassed: Counter[str] = field(default_factory=Counter)
    not_stored: Counter[str] = field(default_factory=Counter)
    store_failures: int = 0
    coalesced: int = 0
    local_hits: int = 0
    stale_served: int = 0
    stale_errors: int = 0
    refreshed: int = 0
    refresh_failures: int = 0
    would_lookups: int = 0
    would_hits: int = 0
    would_differ: int = 0

    def of(self, provider: str, model: str | None) -> ModelCounts:
        """The counts of one model; bounded, the rest is counted together."""
        try:
            return self.models[provider][model or OTHER]
        except KeyError:
            name = provider if provider in self.models or len(self.models) < MAX_PROVIDERS else OTHER
            models = self.models.setdefault(name, {})
            known = model is not None and (model in models or len(models) < MAX_MODELS)
            return models.setdefault(model if known and model else OTHER, ModelCounts())

    def as_dict(self) -> dict[str, object]:
        """Plain values, as ``/cache/stats`` shows them. A ratio is None before the first lookup."""
        total = [counts for models in self.models.values() for counts in models.values()]
        return {
            **_tally(total),
            "stored": self.stored,
            "bypassed": dict(self.bypassed),
            "notStored": dict(self.not_stored),
            "storeFailures": self.store_failures,
            "coalesced": self.coalesced,
            "localHits": self.local_hits,
            "staleServed": self.stale_served,
            "staleErrors": self.stale_errors,
            "refreshed": self.refreshed,
            "refreshFailures": self.refresh_failures,
            "wouldHits": self.would_hits,
            "wouldRatio": round(self.would_hits / self.would_lookups, 4) if self.would_lookups else None,
            "wouldDiffer": self.would_differ,
            "savings": _savings(self.models, self.prices()),
            "providers": {
                provider: {
                    **_tally(models.values()),
                    "models": {name: _tally([counts]) for name, counts in sorted(models.items())},
                }
                for provider, models in sorted(self.models.items())
            },
        }


def _tally(counts: Iterable[ModelCounts]) -> dict[str, int | float | None]:
    items = list(counts)
    return Tally(sum(item.hits for item in items), sum(item.misses for item in items)).as_dict()


def _savings(models: dict[str, dict[str, ModelCounts]], prices: Prices | None) -> dict[str, object]:
    total = [counts for named in models.values() for counts in named.values()]
    return {
        "inputTokens": sum(counts.input_tokens for counts in total),
        "cachedInputTokens": sum(counts.cached_input_tokens for counts in total),
        "outputTokens": sum(counts.output_tokens for counts in total),
        "seconds": round(sum(counts.saved_ms for counts in total) / 1000, 3),
        "cost": None if prices is None else round(float(_cost(models, prices)), 6),
        "currency": None if prices is None else prices.currency,
    }


def _cost(models: dict[str, dict[str, ModelCounts]], prices: Prices) -> Decimal:
    """What the saved tokens would have cost; models without a price count nothing."""
    return sum(
        (
            price.of(counts.input_tokens, counts.cached_input_tokens, counts.output_tokens)
            for provider, named in models.items()
            for model, counts in named.items()
            if (price := prices.of(provider, model)) is not None
        ),
        Decimal(0),
    )
