"""``spec.responseCache``: which LLM answers are kept, for whom and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from cachepolicy import capabilities
from cachepolicy.caches import CacheMode, ModelName
from cachepolicy.decimals import DecimalNumber
from cachepolicy.durations import Duration, PositiveDuration
from cachepolicy.prices import Prices
from cachepolicy.quantities import Quantity
from cachepolicy.schema import ApiModel, Matching, cel, validated


class CacheScope(StrEnum):
    """Who shares an answer."""

    TENANT = "Tenant"
    USER = "User"
    GLOBAL = "Global"


class ToolCalls(StrEnum):
    """What happens to an answer that calls a tool."""

    NEVER = "Never"
    ALLOW = "Allow"


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
    """Which answers are stored. Errors, streams, incomplete answers and credentials never are."""

    finish_reasons: tuple[Annotated[str, StringConstraints(min_length=1, max_length=32)], ...] = Field(
        default=("stop", "end_turn"),
        min_length=1,
        max_length=16,
        description="Finish reasons of a complete answer. Default stop and end_turn.",
    )
    max_entry_bytes: Quantity = Field(
        default=Quantity.parse("1Mi"), description="Larger answers are not stored. Default 1Mi."
    )
    tool_calls: ToolCalls = Field(
        default=ToolCalls.NEVER,
        description="Never, or Allow: an answer that calls a tool is stored like any other. Default Never.",
    )
    max_temperature: DecimalNumber | None = Field(
        default=None,
        description="A request that names a higher temperature is not cached. Absent: any temperature.",
    )


class LocalCache(ApiModel):
    """A first level in the memory of each process."""

    max_bytes: Quantity = Field(
        default=Quantity.parse("64Mi"), description="What it may hold in each process. Default 64Mi."
    )
    ttl: PositiveDuration = Field(
        default=Duration.parse("30s"),
        description="Longest time in it; never longer than the answer is fresh. Default 30s.",
    )


class Coalesce(ApiModel):
    """Identical requests that come at the same time become one call of the provider, over all replicas."""

    wait_max: PositiveDuration = Field(
        default=Duration.parse("30s"),
        description="A request that has waited this long for another one's answer asks by itself. Default 30s.",
    )


HeaderName = Annotated[
    str,
    StringConstraints(max_length=64),
    Matching("^[A-Za-z0-9-]+$", "the name of a header holds letters, digits and '-'"),
]

_GLOBAL = "scope: Global needs acceptCrossTenantTiming: true, for the time of an answer then tells one tenant what others asked"


class ResponseCache(ApiModel):
    """Complete LLM answers, kept per tenant, user or for all."""

    model_config = validated(
        cel(
            "!has(self.scope) || self.scope != 'Global' || "
            "(has(self.acceptCrossTenantTiming) && self.acceptCrossTenantTiming)",
            _GLOBAL,
        ),
    )

    mode: CacheMode = Field(
        default=CacheMode.ENFORCE,
        description="Enforce; Shadow asks the provider each time and counts what would have been found; "
        "Off neither reads nor stores. Default Enforce.",
    )
    scope: CacheScope = Field(
        default=CacheScope.TENANT,
        description="Who shares an answer: everybody of a Tenant, one User alone, or Global. Default Tenant.",
    )
    accept_cross_tenant_timing: bool = Field(
        default=False,
        description="Must be true with scope Global, where an answer that comes at once tells that another tenant "
        "asked the same. Default false.",
    )
    ttl: PositiveDuration = Field(default=Duration.parse("10m"), description="Time to live. Default 10m.")
    jitter_percent: int = Field(
        default=10,
        ge=0,
        le=50,
        description="Each answer lives shorter by up to this share, so that those stored together do not all end "
        "together. Default 10.",
    )
    stale_while_revalidate: PositiveDuration | None = Field(
        default=None,
        description="For so long after its time to live an answer is still served, while one replica asks the "
        "provider in the background. Absent: not at all.",
    )
    stale_if_error: PositiveDuration | None = Field(
        default=None,
        description="For so long after its time to live an answer is served when the provider fails. "
        "Absent: not at all.",
    )
    providers: dict[ModelName, ProviderCache] = Field(
        default={}, max_length=16, description="Times to live by provider and model."
    )
    cacheable: Cacheable = Field(default=Cacheable(), description="Which answers are stored.")
    local: LocalCache | None = Field(
        default=None, description="A first level in the memory of each process. Absent: none."
    )
    coalesce: Coalesce | None = Field(
        default=None,
        description="Identical requests at the same time become one call of the provider. Absent: each asks.",
    )
    tag_header: HeaderName | None = Field(
        default=None,
        description="Header of a request that names tags of its answer, separated by commas; purge can empty a tag. "
        "Absent: none.",
    )
    prices: Prices | None = Field(
        default=None, description="What tokens cost, so that savings have a sum. Absent: none."
    )

    @model_validator(mode="after")
    def _global_is_accepted(self) -> Self:
        if self.scope is CacheScope.GLOBAL and not self.accept_cross_tenant_timing:
            raise ValueError(_GLOBAL)
        return self

    def ttl_for(self, provider: str, model: str | None) -> Duration:
        """The most specific time to live: of the model, of the provider, of the cache."""
        at_provider = self.providers.get(provider)
        if at_provider is None:
            return self.ttl
        at_model = at_provider.models.get(model) if model else None
        return at_model.ttl if at_model else at_provider.ttl or self.ttl

    @property
    def stale_ms(self) -> int:
        """How long an answer is kept after its time to live, in milliseconds."""
        windows = (self.stale_while_revalidate, self.stale_if_error)
        return max((window.milliseconds for window in windows if window is not None), default=0)

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        return (capabilities.RESPONSE_CACHE, *self._further())

    def _further(self) -> Iterator[str]:
        if self.mode is not CacheMode.ENFORCE:
            yield capabilities.RESPONSE_CACHE_MODE
        if self.scope is not CacheScope.TENANT:
            yield capabilities.RESPONSE_CACHE_SCOPE
        if self.cacheable.max_temperature is not None:
            yield capabilities.RESPONSE_CACHE_TEMPERATURE
