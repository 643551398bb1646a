"""``spec.responseCache.prices``: what a provider asks for its tokens, so that savings have a sum."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field, StringConstraints

from cachepolicy.decimals import DecimalNumber
from cachepolicy.schema import ApiModel, Matching

MILLION = 1_000_000

Currency = Annotated[
    str,
    StringConstraints(max_length=3),
    Matching("^[A-Z]{3}$", "a currency is written as its code of ISO 4217, such as USD"),
]
PricedName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class ModelPrice(ApiModel):
    """Prices of one model, each for a million tokens."""

    input: DecimalNumber = Field(description="A million tokens of input.")
    cached_input: DecimalNumber | None = Field(
        default=None,
        description="A million tokens of input that the provider found in its own prompt cache. Default: as input.",
    )
    output: DecimalNumber = Field(description="A million tokens of output.")

    def of(self, input_tokens: int, cached_input_tokens: int, output_tokens: int) -> Decimal:
        """What so many tokens cost; ``input_tokens`` are those that were not cached."""
        cached = self.cached_input if self.cached_input is not None else self.input
        return (
            self.input.value * input_tokens
            + cached.value * cached_input_tokens
            + self.output.value * output_tokens
        ) / MILLION


class ProviderPrices(ApiModel):
    """Prices of one provider's models."""

    models: dict[PricedName, ModelPrice] = Field(min_length=1, max_length=64, description="By model.")


class Prices(ApiModel):
    """What providers ask for their tokens."""

    currency: Currency = Field(default="USD", description="Currency of all of them. Default USD.")
    providers: dict[PricedName, ProviderPrices] = Field(
        min_length=1, max_length=16, description="By provider."
    )

    def of(self, provider: str, model: str) -> ModelPrice | None:
        """The price of a model; None where the table has none."""
        at_provider = self.providers.get(provider)
        return at_provider.models.get(model) if at_provider is not None else None
