"""``spec`` of a CachePolicy.

Defaults are the operator's, not the schema's: they would show up as drift in GitOps tools. They are the
defaults of these models and are visible in the rendered policy document. Every rule stands here once for
Python and once in CEL for the API server, with the same sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from cachepolicy import directives, durations, names
from cachepolicy.durations import Duration
from cachepolicy.names import Role
from cachepolicy.quantities import Quantity
from cachepolicy.schema import (
    ApiModel,
    FieldError,
    Matching,
    cel,
    cel_matches,
    cel_rules,
    field_errors,
    validated,
)

SECTIONS = ("sessions", "rateLimits", "responseCache", "embeddingCache")
STATE_SECTIONS = ("sessions", "rateLimits")
CACHE_SECTIONS = ("responseCache", "embeddingCache")

Label = Annotated[str, StringConstraints(max_length=253)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Stamp = Annotated[str, StringConstraints(min_length=1, max_length=64)]

_POSITIVE = "must be longer than 0s"
_SELF_IS_DURATION = cel_matches("self", durations.PATTERN)


class _Positive:
    """Marks a duration that must be longer than nothing."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        form = handler(schema)
        # What is no duration has its own message: duration() would add one about types.
        rule = cel(f"!{_SELF_IS_DURATION} || duration(self) > duration('0s')", _POSITIVE)
        return form | cel_rules(*form["x-kubernetes-validations"], rule)

    @staticmethod
    def _check(value: Duration) -> Duration:
        if value.milliseconds <= 0:
            raise ValueError(_POSITIVE)
        return value


PositiveDuration = Annotated[Duration, _Positive()]


class StoreFailure(StrEnum):
    """What a limit does while the state server is away."""

    LOCAL = "Local"
    DENY = "Deny"
    ALLOW = "Allow"


class SessionStoreFailure(StrEnum):
    """What sessions do while the state server is away."""

    READ_ONLY = "ReadOnly"
    LOCAL = "Local"
    DENY = "Deny"


class SameSite(StrEnum):
    LAX = "Lax"
    STRICT = "Strict"
    NONE = "None"


class ByType(StrEnum):
    TENANT = "Tenant"
    USER = "User"
    API_KEY = "APIKey"
    IP = "IP"


class ImagePullPolicy(StrEnum):
    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


# --------------------------------------------------------------------------------------------------- Redis

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
    state: StateServer | None = Field(
        default=None, description="The server of sessions and rate limits. Absent: defaults."
    )
    cache: CacheServer | None = Field(
        default=None, description="The server of cached responses and embeddings. Absent: defaults."
    )


class Redis(ApiModel):
    """Where the shared state lives."""

    managed: ManagedRedis = Field(
        description="Redis run by the operator. An empty object takes all defaults."
    )


# ---------------------------------------------------------------------------------------------------- Core


class PodSelector(ApiModel):
    """Selects pods by their labels."""

    match_labels: dict[Label, Annotated[str, StringConstraints(max_length=63)]] = Field(
        min_length=1, max_length=16, description="Labels that a pod must all have."
    )


class Core(ApiModel):
    """The service that enforces the policy."""

    pod_selector: PodSelector | None = Field(
        default=None,
        description="Whose acknowledgements count for Enforced. "
        f"Default: pods labelled {names.LABEL_POLICY} with the policy's name.",
    )


# ------------------------------------------------------------------------------------------------ sessions

_HOST_PREFIX = "a cookie named __Host-… or __Secure-… needs secure: true (browsers drop it otherwise)"
_NONE_SECURE = "sameSite: None needs secure: true (browsers drop the cookie otherwise)"
_IDLE_OF_SELF = "(has(self.idleTimeout) ? self.idleTimeout : '30m')"
_ABSOLUTE_OF_SELF = "(has(self.absoluteTimeout) ? self.absoluteTimeout : '12h')"
_IDLE = "idleTimeout must not be longer than absoluteTimeout"


CookieName = Annotated[
    str,
    StringConstraints(max_length=64),
    Matching(
        r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        "the name of a cookie holds letters, digits and !#$%&'*+.^_`|~- and is not empty (RFC 6265)",
    ),
]


class Cookie(ApiModel):
    """The session cookie (RFC 6265bis). It is always HttpOnly."""

    model_config = validated(
        cel(
            "!(has(self.secure) && !self.secure && (!has(self.name) || "
            "self.name.startsWith('__Host-') || self.name.startsWith('__Secure-')))",
            _HOST_PREFIX,
        ),
        cel(
            "!(has(self.sameSite) && self.sameSite == 'None' && has(self.secure) && !self.secure)",
            _NONE_SECURE,
        ),
    )

    name: CookieName = Field(
        default="__Host-session",
        description="Name of the cookie. Default __Host-session.",
    )
    same_site: SameSite = Field(default=SameSite.LAX, description="SameSite attribute. Default Lax.")
    secure: bool = Field(default=True, description="Secure attribute. Default true.")

    @model_validator(mode="after")
    def _secure_where_needed(self) -> Self:
        if not self.secure and self.name.startswith(("__Host-", "__Secure-")):
            raise ValueError(_HOST_PREFIX)
        if not self.secure and self.same_site is SameSite.NONE:
            raise ValueError(_NONE_SECURE)
        return self


class Sessions(ApiModel):
    """Sessions that survive a pod."""

    model_config = validated(
        cel(
            f"[{_IDLE_OF_SELF}, {_ABSOLUTE_OF_SELF}].exists(d, !{cel_matches('d', durations.PATTERN)}) || "
            f"duration({_IDLE_OF_SELF}) <= duration({_ABSOLUTE_OF_SELF})",
            _IDLE,
        ),
    )

    idle_timeout: PositiveDuration = Field(
        default=Duration.parse("30m"),
        description="A session ends when it was not used for this long. Default 30m.",
    )
    absolute_timeout: PositiveDuration = Field(
        default=Duration.parse("12h"), description="A session ends this long after it began. Default 12h."
    )
    max_bytes: Quantity = Field(
        default=Quantity.parse("64Ki"), description="Largest size of a session's data. Default 64Ki."
    )
    on_store_failure: SessionStoreFailure = Field(
        default=SessionStoreFailure.READ_ONLY,
        description="While Redis is away: ReadOnly serves a copy for at most 5 minutes, Local keeps sessions in "
        "the replica, Deny answers 503. Default ReadOnly.",
    )
    cookie: Cookie = Field(default=Cookie(), description="The session cookie.")

    @model_validator(mode="after")
    def _idle_within_absolute(self) -> Self:
        if self.idle_timeout > self.absolute_timeout:
            raise ValueError(_IDLE)
        return self


# --------------------------------------------------------------------------------------------- rate limits


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


_LIMIT_NAME = "the name of a limit is a lower-case DNS label of at most 40 characters"


# -------------------------------------------------------------------------------------------------- caches


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


class EmbeddingCache(ApiModel):
    """Embeddings, kept per tenant and item."""

    ttl: PositiveDuration = Field(default=Duration.parse("720h"), description="Time to live. Default 720h.")


class Purge(ApiModel):
    """Opaque values: changing one empties that scope of the caches at once. Sessions and limits stay."""

    all: Stamp | None = Field(default=None, description="Everything cached under this policy.")
    providers: dict[ModelName, Stamp] = Field(default={}, max_length=16, description="By provider.")


# ------------------------------------------------------------------------------------------------ the spec


def _has_any(subject: str, sections: tuple[str, ...]) -> str:
    return "(" + " || ".join(f"has({subject}.{section})" for section in sections) + ")"


def _has_storage(subject: str) -> str:
    managed = f"{subject}.redis.managed"
    return f"(has({managed}.state) && has({managed}.state.storage))"


_NO_SECTION = (
    "at least one of sessions, rateLimits, responseCache and embeddingCache is required: "
    "look for a misspelt section"
)
_NO_STATE = "redis.managed.state needs sessions or rateLimits: without them there is no state server"
_NO_CACHE = "redis.managed.cache needs responseCache or embeddingCache: without them there is no cache server"


class CachePolicySpec(ApiModel):
    """What the policy asks for."""

    model_config = validated(
        cel(_has_any("self", SECTIONS), _NO_SECTION),
        cel(f"!has(self.redis.managed.state) || {_has_any('self', STATE_SECTIONS)}", _NO_STATE),
        cel(f"!has(self.redis.managed.cache) || {_has_any('self', CACHE_SECTIONS)}", _NO_CACHE),
        cel(
            f"!({_has_any('self', STATE_SECTIONS)} && {_has_any('oldSelf', STATE_SECTIONS)}) || "
            f"{_has_storage('self')} == {_has_storage('oldSelf')}",
            "redis.managed.state.storage cannot be added to or removed from a running policy: "
            "create a CachePolicy of another name and move Core to it",
        ),
    )

    paused: bool = Field(
        default=False, description="The operator looks and reports, and changes nothing. Default false."
    )
    redis: Redis = Field(description="Where the shared state lives.")
    core: Core = Field(default=Core(), description="The service that enforces the policy.")
    sessions: Sessions | None = Field(default=None, description="Sessions. Absent: none.")
    rate_limits: (
        Annotated[
            dict[str, RateLimit],
            Field(
                min_length=1,
                max_length=32,
                json_schema_extra=cel_rules(
                    cel(f"self.all(k, size(k) <= 40 && k.matches('{names.NAME_PATTERN}'))", _LIMIT_NAME)
                ),
            ),
        ]
        | None
    ) = Field(default=None, description="Rate limits by name, over all replicas. Absent: none.")
    response_cache: ResponseCache | None = Field(
        default=None, description="Cache of LLM responses. Absent: none."
    )
    embedding_cache: EmbeddingCache | None = Field(
        default=None, description="Cache of embeddings. Absent: none."
    )
    purge: Purge | None = Field(
        default=None, description="Empties scopes of the caches when a value changes."
    )

    @field_validator("rate_limits")
    @classmethod
    def _limit_names(cls, value: dict[str, RateLimit] | None) -> dict[str, RateLimit] | None:
        for name in value or ():
            if len(name) > 40 or not re.fullmatch(names.NAME_PATTERN, name):
                raise ValueError(f"{_LIMIT_NAME}, not {name[:60]!r}")
        return value

    @model_validator(mode="after")
    def _servers_have_sections(self) -> Self:
        if not self.sections:
            raise ValueError(_NO_SECTION)
        if self.redis.managed.state is not None and Role.STATE not in self.roles:
            raise ValueError(_NO_STATE)
        if self.redis.managed.cache is not None and Role.CACHE not in self.roles:
            raise ValueError(_NO_CACHE)
        return self

    @property
    def sections(self) -> tuple[str, ...]:
        """The active sections, in the order of the spec."""
        present = (self.sessions, self.rate_limits, self.response_cache, self.embedding_cache)
        return tuple(name for name, section in zip(SECTIONS, present, strict=True) if section is not None)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The servers that exist: each if and only if one of its sections does."""
        active = set(self.sections)
        return tuple(
            role
            for role, sections in ((Role.STATE, STATE_SECTIONS), (Role.CACHE, CACHE_SECTIONS))
            if active & set(sections)
        )

    @property
    def control_role(self) -> Role:
        """The server of the control keys: state, else cache."""
        return self.roles[0]

    def server(self, role: Role) -> StateServer | CacheServer:
        """The settings of one server, defaults where the spec is silent."""
        if role is Role.STATE:
            return self.redis.managed.state or StateServer()
        return self.redis.managed.cache or CacheServer()


def name_refusal(name: str) -> str | None:
    """Why a CachePolicy cannot have this name, as a sentence; None when it can."""
    if len(name) <= names.MAX_NAME_LENGTH and re.fullmatch(names.NAME_PATTERN, name):
        return None
    return NAME_MESSAGE


NAME_MESSAGE = (
    f"metadata.name must be a DNS-1035 label of at most {names.MAX_NAME_LENGTH} characters (lower-case letters, "
    "digits and '-', starting with a letter): Services are named after it"
)


def parse_spec(data: Mapping[str, Any]) -> CachePolicySpec | tuple[FieldError, ...]:
    """The spec, or everything that is wrong with it."""
    try:
        return CachePolicySpec.model_validate(data)
    except ValidationError as error:
        return field_errors(error)
