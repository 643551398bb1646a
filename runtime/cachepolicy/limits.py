"""``spec.rateLimits``: limits over all replicas together."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Self

from pydantic import (
    Field,
    StringConstraints,
    field_validator,
    model_validator,
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
from cachepolicy.weights import TokenWeights

#: Most that a rate may admit under ``algorithm: Log``, which keeps every request.
MAX_LOGGED = 10_000


class StoreFailure(StrEnum):
    """What a limit does while the state server is away."""

    LOCAL = "Local"
    DENY = "Deny"
    ALLOW = "Allow"


class Unit(StrEnum):
    """What a limit counts."""

    REQUESTS = "Requests"
    TOKENS = "Tokens"
    CONCURRENCY = "Concurrency"


class LimitMode(StrEnum):
    """What is done with a limit's answer."""

    ENFORCE = "Enforce"
    SHADOW = "Shadow"
    OFF = "Off"


class Algorithm(StrEnum):
    """How the units of a window are remembered."""

    SUB_BUCKETS = "SubBuckets"
    LOG = "Log"


class ByType(StrEnum):
    TENANT = "Tenant"
    USER = "User"
    API_KEY = "APIKey"
    IP = "IP"
    MODEL = "Model"
    ROUTE = "Route"
    HEADER = "Header"


HeaderName = Annotated[
    str,
    StringConstraints(max_length=64),
    Matching(
        "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        "the name of a header holds letters, digits and !#$%&'*+.^_`|~- and is not empty (RFC 9110)",
    ),
]

_CREDENTIAL_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key")
_NAME_OF_HEADER = "name is the name of a header: type Header needs it and no other type takes it"
_NO_CREDENTIAL = (
    "a header that holds a credential is never part of a key: use the types Tenant, User or APIKey"
)


class By(ApiModel):
    """One part of the key that a limit counts by."""

    model_config = validated(
        cel("(self.type == 'Header') == has(self.name)", _NAME_OF_HEADER),
        cel(
            f"!has(self.name) || !(self.name.lowerAscii() in [{', '.join(map(repr, _CREDENTIAL_HEADERS))}])",
            _NO_CREDENTIAL,
        ),
    )

    type: ByType = Field(
        description="Tenant, User, APIKey, IP, Model, Route (each of match.paths by itself) or Header. "
        "Without Tenant the limit is global."
    )
    name: HeaderName | None = Field(default=None, description="With type Header: the name of the header.")

    @model_validator(mode="after")
    def _name_is_of_a_header(self) -> Self:
        if (self.type is ByType.HEADER) != (self.name is not None):
            raise ValueError(_NAME_OF_HEADER)
        if self.name is not None and self.name.lower() in _CREDENTIAL_HEADERS:
            raise ValueError(_NO_CREDENTIAL)
        return self


class Rate(ApiModel):
    """So many units in so long a window."""

    limit: int = Field(
        ge=1, le=1_000_000_000, description="Requests or tokens admitted in any window of this length."
    )
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


ModelGlob = Annotated[
    str,
    StringConstraints(max_length=128),
    Matching(
        "^[^\\x00-\\x1f\\x7f]+$",
        "the name of a model is not empty and holds no control characters, for example gpt-4o*",
    ),
]


class Match(ApiModel):
    """Which requests a limit applies to. Absent parts match everything."""

    paths: tuple[PathGlob, ...] = Field(
        default=(),
        max_length=16,
        description="Paths, as globs: * matches within one segment, ** any number of them.",
    )
    methods: tuple[Method, ...] = Field(default=(), max_length=16, description="HTTP methods, in capitals.")
    models: tuple[ModelGlob, ...] = Field(
        default=(),
        max_length=16,
        description="Models that a provider is asked for: * matches any characters.",
    )


_BY_ONCE = "each type may stand in by only once, and each header"


_OWN_WINDOW = "each rate needs a window of its own"


_RATES_OR_LIMIT = (
    "unit Concurrency has limit and no rates; the other units have at least one rate and no limit"
)


_WEIGHTS_OF_TOKENS = "weights are for unit Tokens"


_LOG_IS_SMALL = (
    f"algorithm Log remembers every request: it is for unit Requests and limits of at most {MAX_LOGGED}"
)


_ROUTE_OF_PATHS = "type Route counts each of match.paths by itself: list the paths there"


_IS_WINDOW = cel_matches("r.window", durations.PATTERN)


_UNIT_OF_SELF = "(has(self.unit) ? self.unit : 'Requests')"


_HAS_RATES = "(has(self.rates) && size(self.rates) > 0)"


_HAS_PATHS = "(has(self.match) && has(self.match.paths) && size(self.match.paths) > 0)"


class RateLimit(ApiModel):
    """A limit over all replicas together."""

    model_config = validated(
        cel(
            "self.by.all(p, self.by.exists_one(q, q.type == p.type && "
            "(!has(p.name) || !has(q.name) || q.name.lowerAscii() == p.name.lowerAscii())))",
            _BY_ONCE,
        ),
        cel(
            f"!has(self.rates) || self.rates.exists(r, !{_IS_WINDOW}) || "
            "self.rates.all(r, self.rates.exists_one(s, duration(s.window) == duration(r.window)))",
            _OWN_WINDOW,
        ),
        cel(
            f"{_UNIT_OF_SELF} == 'Concurrency' ? has(self.limit) && !{_HAS_RATES} "
            f": {_HAS_RATES} && !has(self.limit)",
            _RATES_OR_LIMIT,
        ),
        cel(f"!has(self.weights) || {_UNIT_OF_SELF} == 'Tokens'", _WEIGHTS_OF_TOKENS),
        cel(
            f"!has(self.algorithm) || self.algorithm != 'Log' || ({_UNIT_OF_SELF} == 'Requests' && "
            f"(!has(self.rates) || self.rates.all(r, r.limit <= {MAX_LOGGED})))",
            _LOG_IS_SMALL,
        ),
        cel(f"!self.by.exists(p, p.type == 'Route') || {_HAS_PATHS}", _ROUTE_OF_PATHS),
    )

    by: tuple[By, ...] = Field(
        min_length=1,
        max_length=6,
        description="What is counted separately, for example each user of each tenant.",
    )
    unit: Unit = Field(
        default=Unit.REQUESTS,
        description="What is counted: Requests, Tokens of the provider, or Concurrency (requests under way at "
        "once). Default Requests.",
    )
    rates: tuple[Rate, ...] = Field(
        default=(),
        max_length=8,
        description="Windows that must all have room. Required for the units Requests and Tokens.",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Requests that may be under way at once. Required for unit Concurrency, and only there.",
    )
    weights: TokenWeights | None = Field(
        default=None, description="Units that a token costs, with unit Tokens. Absent: one each."
    )
    algorithm: Algorithm = Field(
        default=Algorithm.SUB_BUCKETS,
        description="SubBuckets: constant memory, what was used comes back at most a tenth of the window late. "
        f"Log: every request is remembered, exact, limits of at most {MAX_LOGGED}. Default SubBuckets.",
    )
    mode: LimitMode = Field(
        default=LimitMode.ENFORCE,
        description="Enforce, Shadow (counted and reported, refuses nothing) or Off. Default Enforce.",
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
        if len({(part.type, (part.name or "").lower()) for part in value}) != len(value):
            raise ValueError(_BY_ONCE)
        return value

    @field_validator("rates")
    @classmethod
    def _windows_differ(cls, value: tuple[Rate, ...]) -> tuple[Rate, ...]:
        if len({rate.window for rate in value}) != len(value):
            raise ValueError(_OWN_WINDOW)
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        concurrency = self.unit is Unit.CONCURRENCY
        if concurrency != (self.limit is not None) or concurrency == bool(self.rates):
            raise ValueError(_RATES_OR_LIMIT)
        if self.weights is not None and self.unit is not Unit.TOKENS:
            raise ValueError(_WEIGHTS_OF_TOKENS)
        if self.algorithm is Algorithm.LOG and not self._may_be_logged:
            raise ValueError(_LOG_IS_SMALL)
        if self._counts_by(ByType.ROUTE) and not (self.match and self.match.paths):
            raise ValueError(_ROUTE_OF_PATHS)
        return self

    @property
    def in_spend_phase(self) -> bool:
        """Decided when a provider is about to be asked, after the caches: only then model and tokens are known."""
        return self.unit is Unit.TOKENS or self._names_a_model

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        return tuple(self._requires())

    def _requires(self) -> Iterator[str]:
        yield {
            Unit.REQUESTS: capabilities.RATE_LIMITS_REQUESTS,
            Unit.TOKENS: capabilities.RATE_LIMITS_TOKENS,
            Unit.CONCURRENCY: capabilities.RATE_LIMITS_CONCURRENCY,
        }[self.unit]
        if self._names_a_model:
            yield capabilities.RATE_LIMITS_MODEL
        if self._counts_by(ByType.ROUTE):
            yield capabilities.RATE_LIMITS_ROUTE
        if self._counts_by(ByType.HEADER):
            yield capabilities.RATE_LIMITS_HEADER
        if self.mode is not LimitMode.ENFORCE:
            yield capabilities.RATE_LIMITS_MODE

    @property
    def _names_a_model(self) -> bool:
        return self._counts_by(ByType.MODEL) or bool(self.match and self.match.models)

    @property
    def _may_be_logged(self) -> bool:
        return self.unit is Unit.REQUESTS and all(rate.limit <= MAX_LOGGED for rate in self.rates)

    def _counts_by(self, kind: ByType) -> bool:
        return any(part.type is kind for part in self.by)


LIMIT_NAME = "the name of a limit is a lower-case DNS label of at most 40 characters"
