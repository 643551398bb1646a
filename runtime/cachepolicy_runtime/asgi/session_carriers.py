"""How the id of a session travels: in a cookie (RFC 6265bis), or in a header for clients that keep no cookies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cachepolicy.sessions import Carrier, Cookie, CookieLifetime
from cachepolicy.sessions import Sessions as SessionRules
from cachepolicy_runtime.asgi.types import Header, Scope
from cachepolicy_runtime.session import issued

#: Cookies of one name that are looked at: a browser sends several where the policy's domain or path has changed.
_MAX_COOKIES = 4


class Presented(NamedTuple):
    """What a request brought.

    Attributes:
        ids: what looks like ids of ours, the likeliest first.
        by_header: the client is answered by the header, and gets no cookie.
    """

    ids: tuple[str, ...]
    by_header: bool


def presented(scope: Scope, rules: SessionRules) -> Presented:
    """The ids in a request. Where it has the header, even an empty one, no cookie counts."""
    header = rules.header_name
    if header is not None:
        wanted = header.lower().encode("ascii")
        for name, value in scope["headers"]:
            if name.lower() == wanted:
                token = value.decode("latin-1").strip()
                return Presented((token,) if issued(token) else (), True)
    if rules.carrier is Carrier.HEADER:
        return Presented((), True)
    return Presented(tuple(_cookies(scope, rules.cookie.name)), False)


def _cookies(scope: Scope, name: str) -> Iterator[str]:
    found = 0
    for key, value in scope["headers"]:
        if key.lower() != b"cookie":
            continue
        for pair in value.decode("latin-1").split(";"):
            given, _, content = pair.partition("=")
            if given.strip() == name and issued(content := content.strip()):
                yield content
                found += 1
                if found == _MAX_COOKIES:
                    return


def told(rules: SessionRules, *, by_header: bool, value: str | None) -> Header:
    """The header of the answer that gives the client its id; a value of None takes it away."""
    if by_header:
        return (rules.header_name or "").lower().encode("ascii"), (value or "").encode("ascii")
    cookie = set_cookie(rules.cookie, value, rules.absolute_timeout.milliseconds // 1000)
    return b"set-cookie", cookie.encode("ascii")


def varies_on(rules: SessionRules) -> str:
    """What an answer that depends on a session depends on."""
    header = rules.header_name
    if header is None:
        return "Cookie"
    return header if rules.carrier is Carrier.HEADER else f"Cookie, {header}"


def set_cookie(cookie: Cookie, value: str | None, max_age_s: int) -> str:
    """``Set-Cookie`` (RFC 6265bis; Partitioned: draft-cutler-httpbis-partitioned-cookies); a value of None removes
    the cookie, which takes the same domain and path."""
    parts = [f"{cookie.name}={value or ''}"]
    if value is None:
        parts.append("Max-Age=0")
    elif cookie.lifetime is CookieLifetime.PERSISTENT:
        parts.append(f"Max-Age={max_age_s}")
    if cookie.domain is not None:
        parts.append(f"Domain={cookie.domain}")
    parts += [f"Path={cookie.path}", "HttpOnly", f"SameSite={cookie.same_site.value}"]
    if cookie.secure:
        parts.append("Secure")
    if cookie.partitioned:
        parts.append("Partitioned")
    return "; ".join(parts)
