"""Kubernetes quantities: ``128Mi``, ``1Gi``, ``500M``, ``50m``.

Follows k8s.io/apimachinery/pkg/api/resource: a signed decimal number with a decimal-SI, binary-SI or
exponent suffix. A quantity keeps the spelling it was written in and compares by value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from cachepolicy.schema import TextValue, cel, cel_matches, cel_rules

MAX_LENGTH = 24
PATTERN = r"^[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2}|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
FORM = (
    "not a quantity: write a number that is not negative with a suffix such as Ki, Mi, Gi, k, M, G or m, "
    "for example 128Mi"
)

_SUFFIXES = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
_FORM = re.compile(r"^([0-9]+(?:\.[0-9]+)?)([eE][+-]?[0-9]{1,2})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")


@dataclass(frozen=True)
class Quantity(TextValue):
    """An amount; ``text`` is the spelling, ``value`` the number it stands for (bytes, cores)."""

    value: Decimal
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str | int) -> Self:
        """Read ``text``; raises ``ValueError`` with what is allowed. Negative amounts are refused."""
        spelling = str(text)
        match = _FORM.fullmatch(spelling) if len(spelling) <= MAX_LENGTH else None
        if match is None or (match[2] and match[3]):
            raise ValueError(f"{spelling[:40]!r} is {FORM}")
        return cls(Decimal(match[1] + (match[2] or "")) * _SUFFIXES[match[3] or ""], spelling)

    @property
    def bytes(self) -> int:
        """The amount in whole bytes, rounded up as Kubernetes does."""
        return int(self.value.to_integral_value(rounding="ROUND_CEILING"))

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": MAX_LENGTH,
            # A pattern would not look at integers, and say nothing but the regular expression.
            **cel_rules(
                cel(f"type(self) == int ? self >= 0 : {cel_matches('string(self)', PATTERN)}", FORM),
            ),
        }

    @classmethod
    def _validate(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return cls.parse(value)
        raise ValueError(
            f"a quantity is a string such as 128Mi or a whole number, not {type(value).__name__}"
        )
