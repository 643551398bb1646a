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


class CookieLifetime(StrEnum):
    """How long a browser keeps the cookie."""

    PERSISTENT = "Persistent"
    BROWSER = "Browser"


class Carrier(StrEnum):
    """What carries the id of a session between client and service."""

    COOKIE = "Cookie"
    HEADER = "Header"
    EITHER = "Either"


_HOST_ONLY = (
    "a cookie named __Host-… (the default is) has path: / and no domain (browsers drop it otherwise): "
    "give it another name"
)


_PARTITIONED_SECURE = "partitioned needs secure: true (browsers drop the cookie otherwise)"


_HEADER_CARRIED = "header needs carrier: Header or Either"


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


CookieDomain = Annotated[
    str,
    StringConstraints(max_length=253),
    Matching(
        r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+$",
        "a domain is written in lower case, with a dot within and none in front, such as example.com",
    ),
]


CookiePath = Annotated[
    str,
    StringConstraints(max_length=256),
    Matching(
        r"^/[!-:<-~]*$",
        "the path of a cookie begins with / and holds printable ASCII characters without spaces and ; (RFC 6265)",
    ),
]


HeaderName = Annotated[
    str,
    StringConstraints(max_length=64),
    Matching(
        r"^[Xx]-[A-Za-z0-9-]*[A-Za-z0-9]$",
        "the name of the header begins with X- and holds letters, digits and -, such as X-Auth-Token",
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
        cel(
            "!((!has(self.name) || self.name.startsWith('__Host-')) && "
            "(has(self.domain) || (has(self.path) && self.path != '/')))",
            _HOST_ONLY,
        ),
        cel(
            "!(has(self.partitioned) && self.partitioned && has(self.secure) && !self.secure)",
            _PARTITIONED_SECURE,
        ),
    )

    name: CookieName = Field(
        default="__Host-session",
        description="Name of the cookie. Default __Host-session.",
    )
    same_site: SameSite = Field(default=SameSite.LAX, description="SameSite attribute. Default Lax.")
    secure: bool = Field(default=True, description="Secure attribute. Default true.")
    domain: CookieDomain | None = Field(
        default=None,
        description="Domain attribute: the hosts below it get the cookie as well. Default: only the host itself.",
    )
    path: CookiePath = Field(default="/", description="Path attribute. Default /.")
    partitioned: bool = Field(
        default=False,
        description="Partitioned attribute (CHIPS): where the service is embedded in another site, a cookie for "
        "each such site. Default false.",
    )
    lifetime: CookieLifetime = Field(
        default=CookieLifetime.PERSISTENT,
        description="Persistent: the cookie lasts for absoluteTimeout; Browser: until the browser is closed. "
        "Default Persistent.",
    )

    @model_validator(mode="after")
    def _secure_where_needed(self) -> Self:
        if not self.secure and self.name.startswith(("__Host-", "__Secure-")):
            raise ValueError(_HOST_PREFIX)
        if not self.secure and self.same_site is SameSite.NONE:
            raise ValueError(_NONE_SECURE)
        return self

    @model_validator(mode="after")
    def _as_browsers_take_it(self) -> Self:
        if self.name.startswith("__Host-") and (self.domain is not None or self.path != "/"):
            raise ValueError(_HOST_ONLY)
        if self.partitioned and not self.secure:
            raise ValueError(_PARTITIONED_SECURE)
        return self

    @property
    def scoped(self) -> bool:
        """It has an attribute that the first readers of this contract would leave out."""
        known = (None, "/", False, CookieLifetime.PERSISTENT)
        return (self.domain, self.path, self.partitioned, self.lifetime) != known


class SessionHeader(ApiModel):
    """The header that carries a session's id, for clients that keep no cookies."""

    name: HeaderName = Field(
        default="X-Auth-Token",
        description="Name of the header, in requests and in answers. Default X-Auth-Token.",
    )


class Sessions(ApiModel):
    """Sessions that survive a pod."""

    model_config = validated(
        cel(
            f"[{_IDLE_OF_SELF}, {_ABSOLUTE_OF_SELF}].exists(d, !{cel_matches('d', durations.PATTERN)}) || "
            f"duration({_IDLE_OF_SELF}) <= duration({_ABSOLUTE_OF_SELF})",
            _IDLE,
        ),
        cel("!has(self.header) || (has(self.carrier) && self.carrier != 'Cookie')", _HEADER_CARRIED),
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
    carrier: Carrier = Field(
        default=Carrier.COOKIE,
        description="What carries a session's id: Cookie, Header for clients of an API, or Either: the header where "
        "a request has it. Default Cookie.",
    )
    cookie: Cookie = Field(default=Cookie(), description="The session cookie.")
    header: SessionHeader | None = Field(
        default=None, description="The header, with carrier Header or Either. Absent: defaults."
    )

    @model_validator(mode="after")
    def _idle_within_absolute(self) -> Self:
        if self.idle_timeout > self.absolute_timeout:
            raise ValueError(_IDLE)
        return self

    @model_validator(mode="after")
    def _header_is_carried(self) -> Self:
        if self.header is not None and self.carrier is Carrier.COOKIE:
            raise ValueError(_HEADER_CARRIED)
        return self

    @property
    def header_name(self) -> str | None:
        """The header that carries an id; None where none does."""
        if self.carrier is Carrier.COOKIE:
            return None
        return (self.header or SessionHeader()).name

    @property
    def requires(self) -> tuple[str, ...]:
        """The capabilities without which a reader would enforce this wrongly."""
        more = (
            (capabilities.SESSIONS_HEADER, self.carrier is not Carrier.COOKIE),
            (capabilities.SESSIONS_COOKIE_SCOPE, self.carrier is not Carrier.HEADER and self.cookie.scoped),
        )
        return (capabilities.SESSIONS, *(name for name, needed in more if needed))
