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


class VectorEncoding(StrEnum):
    """How many bits of each number are kept."""

    FLOAT32 = "Float32"
    FLOAT16 = "Float16"


class ExpireAfter(StrEnum):
    """What a time to live is counted from."""

    WRITE = "Write"
    ACCESS = "Access"


class EmbeddingCache(ApiModel):
    """Embeddings, kept per tenant and item."""

    mode: CacheMode = Field(
        default=CacheMode.ENFORCE,
        description="Enforce; Shadow asks the provider each time and counts what would have been found; "
        "Off neither reads nor stores. Default Enforce.",
    )
    ttl: PositiveDuration = Field(default=Duration.parse("720h"), description="Time to live. Default 720h.")
    expire_after: ExpireAfter = Field(
        default=ExpireAfter.WRITE,
        description="Write: the time to live begins when an embedding is stored. Access: it begins anew when one is "
        "used in the second half of it. Default Write.",
    )
    encoding: VectorEncoding = Field(
        default=VectorEncoding.FLOAT32,
        description="Float32, or Float16: half the memory, numbers rounded to 11 bits. Default Float32.",
    )

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        modes = () if self.mode is CacheMode.ENFORCE else (capabilities.EMBEDDING_CACHE_MODE,)
        return (capabilities.EMBEDDING_CACHE, *modes)
