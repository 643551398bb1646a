"""``spec.responseCache``, ``spec.embeddingCache`` and ``spec.purge``."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    Field,
    StringConstraints,
)

from cachepolicy import capabilities
from cachepolicy.durations import Duration, PositiveDuration
from cachepolicy.quantities import Quantity
from cachepolicy.schema import (
    ApiModel,
)

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


Stamp = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class ModelCache(ApiModel):
    """How long the answers of one model are kept."""

    ttl: PositiveDuration = Field(description="Time to live.")


class ProviderCache(ApiModel):
    """How long the answers of one provider are kept."""

    ttl: PositiveDuration | None = Field(
        default=None, description="Time to live; the cache's own when absent."
    )
    models: dict[ModelName, ModelCache] = Field(default={}, max_length=64, description="By model.")


class Cacheable(ApiModel):
    """Which answers are stored. Errors, streams, incomplete answers and tool calls never are."""

    finish_reasons: tuple[Annotated[str, StringConstraints(min_length=1, max_length=32)], ...] = Field(
        default=("stop", "end_turn"),
        min_length=1,
        max_length=16,
        description="Finish reasons of a complete answer. Default stop and end_turn.",
    )
    max_entry_bytes: Quantity = Field(
        default=Quantity.parse("1Mi"), description="Larger answers are not stored. Default 1Mi."
    )


class ResponseCache(ApiModel):
    """Complete LLM answers, kept per tenant."""

    ttl: PositiveDuration = Field(default=Duration.parse("10m"), description="Time to live. Default 10m.")
    providers: dict[ModelName, ProviderCache] = Field(
        default={}, max_length=16, description="Times to live by provider and model."
    )
    cacheable: Cacheable = Field(default=Cacheable(), description="Which answers are stored.")

    def ttl_for(self, provider: str, model: str | None) -> Duration:
        """The most specific time to live: of the model, of the provider, of the cache."""
        at_provider = self.providers.get(provider)
        if at_provider is None:
            return self.ttl
        at_model = at_provider.models.get(model) if model else None
        return at_model.ttl if at_model else at_provider.ttl or self.ttl

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        return (capabilities.RESPONSE_CACHE,)


class EmbeddingCache(ApiModel):
    """Embeddings, kept per tenant and item."""

    ttl: PositiveDuration = Field(default=Duration.parse("720h"), description="Time to live. Default 720h.")

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        return (capabilities.EMBEDDING_CACHE,)


class Purge(ApiModel):
    """Opaque values: changing one empties that scope of the caches at once. Sessions and limits stay."""

    all: Stamp | None = Field(default=None, description="Everything cached under this policy.")
    providers: dict[ModelName, Stamp] = Field(default={}, max_length=16, description="By provider.")

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        return (capabilities.PURGE,)
