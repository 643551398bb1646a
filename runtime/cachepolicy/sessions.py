"""``spec.sessions``: sessions that survive a pod."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import (
    Field,
    StringConstraints,
    model_validator,
)

from cachepolicy import capabilities, durations
from cachepolicy.durations import Duration, PositiveDuration
from cachepolicy.quantities import Quantity
from cachepolicy.schema import (
    ApiModel,
    Matching,
    cel,
    cel_matches,
    validated,
)


class SessionStoreFailure(StrEnum):
    """What sessions do while the state server is away."""

    READ_ONLY = "ReadOnly"
    LOCAL = "Local"
    DENY = "Deny"


class SameSite(StrEnum):
    LAX = "Lax"
    STRICT = "Strict"
    NONE = "None"


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

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        return (capabilities.SESSIONS,)
