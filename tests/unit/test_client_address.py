"""Whose address counts behind proxies: nobody can choose it who is not a proxy of ours."""

from __future__ import annotations

import pytest

from cachepolicy.proxies import Cidr
from cachepolicy_runtime.asgi.address import MAX_HEADER, MAX_HOPS, ProxyTrust
from cachepolicy_runtime.asgi.types import Scope

OURS = ProxyTrust([Cidr.parse("10.0.0.0/8"), Cidr.parse("fd00::/8")])


def scope(peer: str | None, **headers: str | list[str]) -> Scope:
    fields = [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return {"client": (peer, 5) if peer else None, "headers": fields}


def test_without_proxies_no_header_is_looked_at() -> None:
    asked = scope("192.0.2.1", x_forwarded_for="198.51.100.7", forwarded="for=198.51.100.7")
    assert ProxyTrust(()).address(asked) == "192.0.2.1"
    assert OURS.address(asked) == "192.0.2.1"


@pytest.mark.parametrize(
    ("chain", "caller"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("203.0.113.9, 198.51.100.7", "198.51.100.7"),  # the left part is the caller's own invention
        ("203.0.113.9, 198.51.100.7, 10.0.0.2, 10.0.0.3", "198.51.100.7"),
        ("10.0.0.9, 10.0.0.2", "10.0.0.9"),  # a caller inside of our network
        ("198.51.100.7:4711", "198.51.100.7"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("198.51.100.7, fd00::1", "198.51.100.7"),
        ("198.51.100.7, unknown, 10.0.0.2", "10.0.0.2"),  # what cannot be read ends the list
        ("198.51.100.7, ", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("evil", "10.0.0.1"),
    ],
)
def test_the_list_is_read_from_its_end_through_proxies_of_ours(chain: str, caller: str) -> None:
    assert OURS.address(scope("10.0.0.1", x_forwarded_for=chain)) == caller


@pytest.mark.parametrize(
    ("value", "caller"),
    [
        ("for=198.51.100.7", "198.51.100.7"),
        ('For="198.51.100.7:4711";proto=https;by=203.0.113.43', "198.51.100.7"),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ("for=203.0.113.9, for=198.51.100.7;host=a, for=10.0.0.2", "198.51.100.7"),
        ('for="203.0.113.9, for=10.0.0.2", for=198.51.100.7', "198.51.100.7"),
        ("for=198.51.100.7, for=_hidden", "10.0.0.1"),
        ("for=198.51.100.7, proto=https", "10.0.0.1"),
        ("proto=https;notfor=203.0.113.9", "10.0.0.1"),
        ('for="198.51.100.7', "10.0.0.1"),
    ],
)
def test_forwarded_is_read_the_same_way(value: str, caller: str) -> None:
    """RFC 7239, quoted and not."""
    assert OURS.address(scope("10.0.0.1", forwarded=value)) == caller


def test_fields_of_one_name_are_one_list() -> None:
    chain = ["203.0.113.9", "198.51.100.7", "10.0.0.2"]
    assert OURS.address(scope("10.0.0.1", x_forwarded_for=chain)) == "198.51.100.7"


def test_two_headers_that_disagree_are_not_believed() -> None:
    """One of them is the caller's, whichever the proxy writes."""
    both = {"x_forwarded_for": "198.51.100.7", "forwarded": "for=198.51.100.7"}
    assert OURS.address(scope("10.0.0.1", **both)) == "198.51.100.7"
    assert OURS.address(scope("10.0.0.1", **{**both, "forwarded": "for=203.0.113.9"})) == "10.0.0.1"
    assert OURS.address(scope("10.0.0.1", **{**both, "x_forwarded_for": "203.0.113.9"})) == "10.0.0.1"


def test_a_unix_socket_is_a_proxy_of_ours() -> None:
    assert OURS.address(scope(None, x_forwarded_for="198.51.100.7")) == "198.51.100.7"
    assert OURS.address(scope(None)) is None
    assert ProxyTrust(()).address(scope(None, x_forwarded_for="198.51.100.7")) is None


def test_a_list_without_end_is_not_read() -> None:
    assert OURS.address(scope("10.0.0.1", x_forwarded_for="1.1.1.1, " * MAX_HEADER)) == "10.0.0.1"
    many = ", ".join(["198.51.100.7"] + ["10.0.0.2"] * (MAX_HOPS + 1))
    assert OURS.address(scope("10.0.0.1", x_forwarded_for=many)) == "10.0.0.2"
