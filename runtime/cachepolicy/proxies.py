"""Networks of proxies that are believed when they say where a request came from."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeAlias

from pydantic import Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from cachepolicy.schema import TextValue, cel, cel_matches, cel_rules

Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = rf"({_OCTET}\.){{3}}{_OCTET}(/(3[0-2]|[12]?[0-9]))?"
_V6 = "[0-9A-Fa-f:]{2,39}(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?"
PATTERN = f"^({_V4}|{_V6})$"
MAX_LENGTH = 43
FORM = "not a network: write an address or a CIDR, for example 10.0.0.0/8 or fd00::/8"


@dataclass(frozen=True)
class Cidr(TextValue):
    """One network; ``text`` is its spelling."""

    network: Network
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``text``; raises ``ValueError`` with what is allowed. Bits behind the prefix are ignored."""
        try:
            return cls(ipaddress.ip_network(text[: MAX_LENGTH + 1], strict=False), text)
        except ValueError:
            raise ValueError(f"{text[:45]!r} is {FORM}") from None

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "type": "string",
            "maxLength": MAX_LENGTH,
            **cel_rules(cel(cel_matches("self", PATTERN), FORM)),
        }

    @classmethod
    def _validate(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        raise ValueError(f"a network is a string such as 10.0.0.0/8, not {type(value).__name__}")


TrustedProxies = Annotated[tuple[Cidr, ...], Field(max_length=32)]
