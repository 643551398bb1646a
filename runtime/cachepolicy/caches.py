"""``spec.embeddingCache`` and what all caches have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import (
    Field,
    StringConstraints,
)

from cachepolicy import capabilities
from cachepolicy.durations import Duration, PositiveDuration
from cachepolicy.schema import (
    ApiModel,
)

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class CacheMode(StrEnum):
    """Whether a cache serves, only counts, or does nothing."""

    ENFORCE = "Enforce"
    SHADOW = "Shadow"
    OFF = "Off"


class EmbeddingCache(ApiModel):
    """Embeddings, kept per tenant and item."""

    ttl: PositiveDuration = Field(default=Duration.parse("720h"), description="Time to live. Default 720h.")

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        return (capabilities.EMBEDDING_CACHE,)
