"""``spec.rateLimits``: limits over all replicas together."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import (
    Field,
    StringConstraints,
    field_validator,
)

from cachepolicy import capabilities, durations
from cachepolicy.durations import PositiveDuration
from cachepolicy.schema import (
    ApiModel,
    Matching,
    cel,
    cel_matches,
    validated,
)


class StoreFailure(StrEnum):
    """What a limit does while the state server is away."""

    LOCAL = "Local"
    DENY = "Deny"
    ALLOW = "Allow"


class ByType(StrEnum):
    TENANT = "Tenant"
    USER = "User"
    API_KEY = "APIKey"
    IP = "IP"


class By(ApiModel):
    """One part of the key that a limit counts by."""

    type: ByType = Field(description="Tenant, User, APIKey or IP. Without Tenant the limit is global.")


class Rate(ApiModel):
    """So many requests in so long a window."""

    limit: int = Field(ge=1, le=1_000_000_000, description="Requests admitted in any window of this length.")
    window: PositiveDuration = Field(description="Length of the sliding window, for example 1m.")


PathGlob = Annotated[
    str,
    StringConstraints(max_length=256),
    Matching(
        "^/[^\\x00-\\x1f\\x7f]*$", "a path begins with / and holds no control characters, for example /v1/**"
    ),
]


Method = Annotated[
    str,
    StringConstraints(max_length=16),
    Matching("^[A-Z]+$", "a method is written in capitals, such as POST"),
]


class Match(ApiModel):
    """Which requests a limit applies to. Absent parts match everything."""

    paths: tuple[PathGlob, ...] = Field(
        default=(),
        max_length=16,
        description="Paths, as globs: * matches within one segment, ** any number of them.",
    )
    methods: tuple[Method, ...] = Field(default=(), max_length=16, description="HTTP methods, in capitals.")


_BY_ONCE = "each type may stand in by only once"


_OWN_WINDOW = "each rate needs a window of its own"


_IS_WINDOW = cel_matches("r.window", durations.PATTERN)


class RateLimit(ApiModel):
    """A limit over all replicas together."""

    model_config = validated(
        cel("self.by.all(p, self.by.exists_one(q, q.type == p.type))", _BY_ONCE),
        cel(
            f"self.rates.exists(r, !{_IS_WINDOW}) || "
            "self.rates.all(r, self.rates.exists_one(s, duration(s.window) == duration(r.window)))",
            _OWN_WINDOW,
        ),
    )

    by: tuple[By, ...] = Field(
        min_length=1,
        max_length=6,
        description="What is counted separately, for example each user of each tenant.",
    )
    rates: tuple[Rate, ...] = Field(
        min_length=1, max_length=8, description="Windows that must all have room."
    )
    match: Match | None = Field(default=None, description="Which requests it applies to. Absent: all.")
    on_store_failure: StoreFailure = Field(
        default=StoreFailure.LOCAL,
        description="While Redis is away: Local enforces the limit divided by the live processes, Deny answers 503, "
        "Allow admits everything. Default Local.",
    )

    @field_validator("by")
    @classmethod
    def _each_once(cls, value: tuple[By, ...]) -> tuple[By, ...]:
        if len({part.type for part in value}) != len(value):
            raise ValueError(_BY_ONCE)
        return value

    @field_validator("rates")
    @classmethod
    def _windows_differ(cls, value: tuple[Rate, ...]) -> tuple[Rate, ...]:
        if len({rate.window for rate in value}) != len(value):
            raise ValueError(_OWN_WINDOW)
        return value

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        return (capabilities.RATE_LIMITS_REQUESTS,)


LIMIT_NAME = "the name of a limit is a lower-case DNS label of at most 40 characters"
