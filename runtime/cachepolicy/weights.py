"""What a token counts under a limit of unit Tokens."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from cachepolicy.decimals import DecimalNumber
from cachepolicy.schema import ApiModel, cel, validated

_ALL_ZERO = "at least one weight must be more than 0: nothing would be counted"
_ONE = DecimalNumber.parse(1)


class TokenWeights(ApiModel):
    """Units that one token of each kind costs."""

    model_config = validated(
        cel(
            "!has(self.input) || !has(self.cachedInput) || !has(self.output) || "
            "[string(self.input), string(self.cachedInput), string(self.output)].exists(w, w.matches('[1-9]'))",
            _ALL_ZERO,
        )
    )

    input: DecimalNumber = Field(default=_ONE, description="Of a token that the provider read. Default 1.")
    cached_input: DecimalNumber = Field(
        default=_ONE, description="Of a token that the provider had in its own prompt cache. Default 1."
    )
    output: DecimalNumber = Field(default=_ONE, description="Of a token that the provider wrote. Default 1.")

    @model_validator(mode="after")
    def _counts_something(self) -> Self:
        if not any(weight.value for weight in (self.input, self.cached_input, self.output)):
            raise ValueError(_ALL_ZERO)
        return self

    def units(self, *, input_tokens: int, cached_input_tokens: int, output_tokens: int) -> int:
        """What a call costs, rounded up. ``input_tokens`` are those that were not in the prompt cache."""
        return math.ceil(
            input_tokens * self.input.value
            + cached_input_tokens * self.cached_input.value
            + output_tokens * self.output.value
        )
