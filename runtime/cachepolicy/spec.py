"""``spec`` of a CachePolicy.

Defaults are the operator's, not the schema's: they would show up as drift in GitOps tools. They are the
defaults of these models and are visible in the rendered policy document. Every rule stands here once for
Python and once in CEL for the API server, with the same sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from cachepolicy import capabilities, names
from cachepolicy.caches import EmbeddingCache
from cachepolicy.limits import LIMIT_NAME, RateLimit
from cachepolicy.names import Role
from cachepolicy.proxies import TrustedProxies
from cachepolicy.purge import Purge
from cachepolicy.response_cache import ResponseCache
from cachepolicy.schema import (
    ApiModel,
    FieldError,
    cel,
    cel_rules,
    field_errors,
    validated,
)
from cachepolicy.servers import CacheServer, Label, Redis, StateServer
from cachepolicy.sessions import Sessions

SECTIONS = ("sessions", "rateLimits", "responseCache", "embeddingCache")


STATE_SECTIONS = ("sessions", "rateLimits")


CACHE_SECTIONS = ("responseCache", "embeddingCache")


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
    trusted_proxies: TrustedProxies = Field(
        default=(),
        description="Addresses and networks of proxies before Core. From them, and only from them, limits by IP take "
        "the caller's address out of X-Forwarded-For or Forwarded. Default none.",
    )

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce limits by IP wrongly."""
        return (capabilities.TRUSTED_PROXIES,) if self.trusted_proxies else ()


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
                    cel(f"self.all(k, size(k) <= 40 && k.matches('{names.NAME_PATTERN}'))", LIMIT_NAME)
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
                raise ValueError(f"{LIMIT_NAME}, not {name[:60]!r}")
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


NAME_MESSAGE = (
    f"metadata.name must be a DNS-1035 label of at most {names.MAX_NAME_LENGTH} characters (lower-case letters, "
    "digits and '-', starting with a letter): Services are named after it"
)


def name_refusal(name: str) -> str | None:
    """Why a CachePolicy cannot have this name, as a sentence; None when it can."""
    if len(name) <= names.MAX_NAME_LENGTH and re.fullmatch(names.NAME_PATTERN, name):
        return None
    return NAME_MESSAGE


def parse_spec(data: Mapping[str, Any]) -> CachePolicySpec | tuple[FieldError, ...]:
    """The spec, or everything that is wrong with it."""
    try:
        return CachePolicySpec.model_validate(data)
    except ValidationError as error:
        return field_errors(error)
