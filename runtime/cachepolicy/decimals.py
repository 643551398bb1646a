"""Decimal numbers: ``4``, ``"0.15"``, ``"0.0375"``.

A CRD has no floats (they differ between languages, Kubernetes API conventions), so a fraction is written as a
string and a whole number either way. The number is exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from cachepolicy.schema import TextValue, cel, cel_matches, cel_rules

MAX_LENGTH = 16
PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,6})?$"
FORM = "not a decimal number: write one that is not negative, a fraction in quotes, such as 4 or '0.15'"

_WHOLE = re.compile(PATTERN)


@dataclass(frozen=True, order=True)
class DecimalNumber(TextValue):
    """A number of at most nine digits before the point and six behind it, 0 or more."""

    value: Decimal

    @classmethod
    def parse(cls, text: str | int) -> Self:
        """Read ``text``; raises ``ValueError`` with what is allowed."""
        spelling = str(text)
        if not _WHOLE.fullmatch(spelling):
            raise ValueError(f"{spelling[:40]!r} is {FORM}")
        return cls(Decimal(spelling))

    def __str__(self) -> str:
        return f"{self.value:f}"

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": MAX_LENGTH,
            # A pattern would not look at integers.
            **cel_rules(cel(cel_matches("string(self)", PATTERN), FORM)),
        }

    @classmethod
    def _validate(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return cls.parse(value)
        raise ValueError(f"a decimal number is a whole number or a string, not {type(value).__name__}")
