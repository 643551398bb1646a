"""``spec.redis``: the Redis servers of a CachePolicy."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from cachepolicy import directives
from cachepolicy.pods import ImagePullSecret, NetworkPolicy, PodMetadata, Scheduling
from cachepolicy.quantities import Quantity
from cachepolicy.schema import (
    ApiModel,
    Matching,
    cel,
    cel_rules,
    validated,
)

Label = Annotated[str, StringConstraints(max_length=253)]


class ImagePullPolicy(StrEnum):
    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


_MEMORY_REQUIRED = "limits.memory is required: maxmemory follows from it"


class Resources(ApiModel):
    """Compute resources of the Redis container, as in core/v1."""

    model_config = validated(cel("has(self.limits) && 'memory' in self.limits", _MEMORY_REQUIRED))

    requests: dict[Label, Quantity] = Field(
        default={},
        max_length=8,
        description="Requested amounts. The memory request defaults to the memory limit.",
    )
    limits: dict[Label, Quantity] = Field(
        default={}, max_length=8, description="Limits. A memory limit is required: maxmemory follows from it."
    )

    @model_validator(mode="after")
    def _memory_limit(self) -> Self:
        if "memory" not in self.limits:
            raise ValueError(_MEMORY_REQUIRED)
        return self


class Storage(ApiModel):
    """The volume of a server."""

    model_config = validated(
        cel(
            "(has(self.className) ? self.className : '') == (has(oldSelf.className) ? oldSelf.className : '')",
            "storage.className cannot be changed: a volume keeps its class. "
            "Create a CachePolicy of another name with the new class and move Core to it",
        ),
        cel(
            "!isQuantity(string(self.size)) || "
            "quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0",
            "storage.size can only grow: a volume does not shrink",
        ),
        cel(
            "!isQuantity(string(self.size)) || quantity(string(self.size)).compareTo(quantity('0')) != 0",
            "storage.size must be more than 0",
        ),
    )

    size: Quantity = Field(description="Requested size of the volume. It can only grow.")
    class_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        description="StorageClass; the cluster's default when absent. It cannot be changed.",
    )

    @field_validator("size")
    @classmethod
    def _some(cls, value: Quantity) -> Quantity:
        if value.value <= 0:
            raise ValueError("storage.size must be more than 0")
        return value


DirectiveValue = Annotated[
    str,
    StringConstraints(max_length=directives.MAX_VALUE_LENGTH),
    Matching(directives.VALUE_PATTERN, directives.ONE_LINE),
]


DirectiveMap = Annotated[
    dict[str, DirectiveValue],
    Field(
        max_length=directives.MAX_DIRECTIVES,
        json_schema_extra=cel_rules(
            cel(
                f"self.all(k, size(k) <= {directives.MAX_KEY_LENGTH} && k.matches('{directives.KEY_PATTERN}'))",
                "a key is a directive of redis.conf: lower-case letters, digits and '-'",
            ),
            cel(
                directives.cel_owned(),
                "one of these directives belongs to the operator and follows from the rest of the spec: remove it "
                f"({', '.join(directives.OWNED)}, {', '.join(f'{prefix}*' for prefix in directives.OWNED_PREFIXES)})",
            ),
        ),
    ),
]


class ServerSpec(ApiModel):
    """What both Redis servers have in common."""

    resources: Resources | None = Field(
        default=None, description="Compute resources. The memory limit bounds maxmemory."
    )
    config: DirectiveMap = Field(
        default={},
        description="Directives of redis.conf that the operator does not own, for example maxclients. "
        "Applied live where Redis can, else by one restart.",
    )

    @field_validator("config", mode="before")
    @classmethod
    def _directives(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            for key, text in value.items():
                reason = directives.refusal(str(key), text if isinstance(text, str) else "")
                if reason:
                    raise ValueError(reason)
        return value


class StateServer(ServerSpec):
    """The server of sessions and rate limits: never evicts (noeviction)."""

    storage: Storage | None = Field(
        default=None,
        description="Keeps an append-only file and snapshots on a volume. Absent: memory only. "
        "Whether it is there cannot be changed.",
    )


class CacheServer(ServerSpec):
    """The server of cached responses and embeddings: evicts what is used least (allkeys-lfu), memory only."""


Image = Annotated[
    str,
    StringConstraints(max_length=512),
    Matching(
        r"^[a-zA-Z0-9][^\s]*$",
        "an image is written without spaces, for example docker.io/library/redis:8.2",
    ),
]


class ManagedRedis(ApiModel):
    """Redis run by the operator: one server for state and one for cache, each only where a section needs it."""

    image: Image | None = Field(
        default=None,
        description="Image of Redis (7.0 or newer) or Valkey (8 or newer); the operator's default when absent.",
    )
    image_pull_policy: ImagePullPolicy = Field(
        default=ImagePullPolicy.IF_NOT_PRESENT,
        description="When the node pulls the image. Default IfNotPresent.",
    )
    image_pull_secrets: tuple[ImagePullSecret, ...] = Field(
        default=(), max_length=8, description="Secrets that the node pulls the image with."
    )
    state: StateServer | None = Field(
        default=None, description="The server of sessions and rate limits. Absent: defaults."
    )
    cache: CacheServer | None = Field(
        default=None, description="The server of cached responses and embeddings. Absent: defaults."
    )
    pod_metadata: PodMetadata = Field(
        default=PodMetadata(), description="Labels and annotations of the Redis pods."
    )
    scheduling: Scheduling = Field(default=Scheduling(), description="Which nodes the Redis pods run on.")
    network_policy: NetworkPolicy = Field(
        default=NetworkPolicy(), description="Who may connect to the Redis pods."
    )
    hibernated: bool = Field(
        default=False,
        description="No Redis pods at all; claims, Secrets and configuration stay. Servers without storage come "
        "back empty. Default false.",
    )


class Redis(ApiModel):
    """Where the shared state lives."""

    managed: ManagedRedis = Field(
        description="Redis run by the operator. An empty object takes all defaults."
    )
