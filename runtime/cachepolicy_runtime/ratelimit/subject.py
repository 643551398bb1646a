"""What a limit may look at in a request, and the parts of a limit's key that come from it. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from cachepolicy.identity import Identity
from cachepolicy.keys import by_value, encode
from cachepolicy.limits import By, ByType

#: What a caller without an address (a unix socket in front) is counted as.
NO_ADDRESS = "unknown"
#: What requests without a header are counted as, all together: whoever leaves it out gains nothing. No header's
#: value can be this, for a value is encoded.
NO_HEADER = "@none"
#: A longer value, which the caller may choose, is in the key as a digest.
MAX_VALUE = 128


class Subject(NamedTuple):
    """A request, or work without one.

    Attributes:
        method, path: as the application sees them; ``path`` is empty where there is no request, and then limits by
            path, method, address or header do not apply.
        ip: the caller's address.
        identity: from authentication only; None is nobody known.
        headers: of the request, names in lower case.
        model: that a provider is to be asked for, once that is known.
    """

    method: str
    path: str
    ip: str | None = None
    identity: Identity | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()
    model: str | None = None

    def with_model(self, model: str | None) -> Subject:
        """The same in the spend phase."""
        return self._replace(model=model)

    def header(self, name: bytes) -> bytes | None:
        """All values of a header in one (RFC 9110, 5.3); None where it is absent."""
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values) if values else None


def part_of_key(part: By, subject: Subject, route: str | None) -> str | None:
    """One ``kind=value`` of a limit's key; None where the request lacks what the limit counts by.

    ``route`` is which of the limit's paths the request matched.
    """
    kind = part.type
    if kind is ByType.HEADER and part.name is not None:
        return _header(part.name.lower(), subject)
    value = _value(kind, subject, route)
    return by_value(kind, _short(value)) if value is not None else None


def _value(kind: ByType, subject: Subject, route: str | None) -> str | None:
    identity = subject.identity
    match kind:
        case ByType.IP:
            return address(subject.ip) if subject.path else None
        case ByType.ROUTE:
            return route
        case ByType.MODEL:
            return subject.model or None
        case ByType.TENANT:
            return identity.tenant if identity is not None else None
        case ByType.USER:
            return identity.user if identity is not None else None
        case _:
            return identity.api_key_id if identity is not None else None


def _header(name: str, subject: Subject) -> str | None:
    if not subject.path:
        return None
    value = subject.header(name.encode("ascii"))
    if value is None:
        return f"header:{encode(name)}={NO_HEADER}"
    return by_value(f"header:{encode(name)}", _short(value.decode("latin-1")) or "-")


def _short(value: str) -> str:
    if len(value) <= MAX_VALUE:
        return value
    return f"sha256:{hashlib.sha256(value.encode(errors='surrogatepass')).hexdigest()}"


@lru_cache(maxsize=4096)
def address(ip: str | None) -> str:
    """An IPv6 caller has a whole /64 to choose from (RFC 4291, 2.5.1), so the network is counted."""
    try:
        found = ipaddress.ip_address(ip or "")
    except ValueError:
        return NO_ADDRESS
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found), 64), strict=False))
