"""Where a request came from, when proxies stand in between.

The address of the connection cannot be forged; what a header says can, except for the part that a proxy of ours
wrote. Each proxy writes the address that it was called from behind what it was given, so the list is read from
its end, and only as long as what was read is a proxy of ours.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TypeAlias

from cachepolicy.proxies import Cidr, Network
from cachepolicy_runtime.asgi.types import Scope, client_ip

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

#: Proxies that a request may have come through; what is further off is not looked at.
MAX_HOPS = 32
#: A longer list is not read at all: it was not written by proxies.
MAX_HEADER = 4096
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;,"]*)', re.IGNORECASE)
#: At a comma that is not within quotes.
_ELEMENTS = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')


class ProxyTrust:
    """Finds the caller's address, through proxies in these networks and no others.

    ``X-Forwarded-For`` and ``Forwarded`` (RFC 7239) are both read. Where a request has both and they differ,
    one of them was not written by our proxies, and nobody can tell which: neither is believed.
    """

    def __init__(self, networks: Iterable[Cidr]) -> None:
        self._networks: tuple[Network, ...] = tuple(cidr.network for cidr in networks)
        self._trusted = lru_cache(maxsize=4096)(self._in_a_network)

    def address(self, scope: Scope) -> str | None:
        """The caller's address; that of the connection where nothing better is known."""
        peer = client_ip(scope)
        if not self._networks or (peer is not None and not self._trusted(peer)):
            return peer
        chains = [_forwarded_for(scope), _forwarded(scope)]
        told = {self._first_stranger(chain, peer) for chain in chains if chain is not None}
        return told.pop() if len(told) == 1 else peer

    def _first_stranger(self, chain: list[str], peer: str | None) -> str | None:
        """The last address in the list that is no proxy of ours; the first one where all of them are."""
        found = peer
        for hop in chain[: -MAX_HOPS - 1 : -1]:
            address = _bare(hop)
            if address is None:
                return found
            found = address
            if not self._trusted(address):
                return found
        return found

    def _in_a_network(self, text: str) -> bool:
        try:
            address = _unmapped(ipaddress.ip_address(text))
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _values(scope: Scope, name: bytes) -> str | None:
    """All fields of this name as one list (RFC 9110, 5.3); None where there is none."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    joined = b",".join(values)
    return joined.decode("latin-1") if values and len(joined) <= MAX_HEADER else None


def _forwarded_for(scope: Scope) -> list[str] | None:
    value = _values(scope, b"x-forwarded-for")
    return None if value is None else [part.strip() for part in value.split(",")]


def _forwarded(scope: Scope) -> list[str] | None:
    value = _values(scope, b"forwarded")
    return None if value is None else list(_nodes(value))


def _nodes(value: str) -> Iterator[str]:
    for element in _ELEMENTS.findall(value):
        found = _FOR.search(element.strip())
        yield found[1].strip().strip('"') if found else ""


def _bare(node: str) -> str | None:
    """The address without a port, ``192.0.2.1:80`` or ``[2001:db8::1]:80``; None for names and nonsense."""
    text = node
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(_unmapped(ipaddress.ip_address(text)))
    except ValueError:
        return None


def _unmapped(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
