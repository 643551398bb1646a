"""Durations as Go and the Gateway API write them: ``90s``, ``1h30m``, ``720h``.

The format is GEP-2257 (https://gateway-api.sigs.k8s.io/geps/gep-2257/): whole numbers with the units
``h``, ``m``, ``s`` and ``ms``, at most four of them, no days and no fractions. CEL's ``duration()`` reads
the same strings, so the API server and this module agree on every value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from cachepolicy.schema import TextValue, cel, cel_matches, cel_rules

PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
MAX_LENGTH = 20
FORM = (
    "not a duration: write whole numbers with the units h, m, s and ms, such as 90s, 1h30m or 720h "
    "(days are written in hours)"
)

_SELF_IS_DURATION = cel_matches("self", PATTERN)
_UNITS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_WHOLE = re.compile(PATTERN)
_PART = re.compile(r"([0-9]{1,5})(ms|h|m|s)")


@dataclass(frozen=True, order=True)
class Duration(TextValue):
    """A length of time, exact to the millisecond."""

    milliseconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``text``; raises ``ValueError`` with what is allowed."""
        if len(text) > MAX_LENGTH or not _WHOLE.fullmatch(text):
            raise ValueError(f"{text[:40]!r} is {FORM}")
        return cls(sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text)))

    @property
    def seconds(self) -> float:
        return self.milliseconds / 1000

    def __str__(self) -> str:
        """The canonical spelling: largest units first, no zero parts (``90m`` is ``1h30m``)."""
        rest, parts = self.milliseconds, []
        for unit, size in _UNITS.items():
            count, rest = divmod(rest, size)
            if count:
                parts.append(f"{count}{unit}")
        return "".join(parts) or "0s"

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        # A rule, not a pattern: of that one a person would see nothing but the regular expression.
        return {"type": "string", "maxLength": MAX_LENGTH, **cel_rules(cel(_SELF_IS_DURATION, FORM))}

    @classmethod
    def _validate(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        raise ValueError(f"a duration is a string such as 90s or 1h30m, not {type(value).__name__}")


_POSITIVE = "must be longer than 0s"


class _Positive:
    """Marks a duration that must be longer than nothing."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        form = handler(schema)
        # What is no duration has its own message: duration() would add one about types.
        rule = cel(f"!{_SELF_IS_DURATION} || duration(self) > duration('0s')", _POSITIVE)
        return form | cel_rules(*form["x-kubernetes-validations"], rule)

    @staticmethod
    def _check(value: Duration) -> Duration:
        if value.milliseconds <= 0:
            raise ValueError(_POSITIVE)
        return value


PositiveDuration = Annotated[Duration, _Positive()]
