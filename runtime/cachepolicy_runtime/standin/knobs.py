"""What a request may ask of the stand-in beside an answer, so that a test sees how a caller takes it.

In the header ``x-standin``, or as ``standin`` in the body's ``metadata`` (which gateways pass on, and which is no part
of a cache key): ``status=503, retry-after=7``, ``delay=2s``, ``usage=none``, ``cached=5``, ``tool=weather``, ``cut=3``,
``drop=3``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cachepolicy import Duration

HEADER = "x-standin"
FIELD = "standin"


class BadRequestError(ValueError):
    """The request cannot be answered; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Knobs:
    """
    Attributes:
        status: answer with this error instead; ``retry_after`` (seconds) goes with it.
        delay: how long this answer takes.
        usage: tell the usage.
        cached: of the input, so many tokens are told to come from the prompt cache.
        tool: call this tool instead of saying something.
        cut: end a stream after so many events, as if that were all.
        drop: break the connection after so many events of a stream.
    """

    status: int | None = None
    retry_after: int | None = None
    delay: Duration | None = None
    usage: bool = True
    cached: int = 0
    tool: str | None = None
    cut: int | None = None
    drop: int | None = None

    @classmethod
    def of(cls, header: str | None, body: Mapping[str, Any]) -> Knobs:
        """Raises :class:`BadRequestError` for a knob that there is not."""
        metadata = body.get("metadata")
        asked = metadata.get(FIELD) if isinstance(metadata, Mapping) else None
        text = header or (asked if isinstance(asked, str) else "")
        pairs = (part.partition("=") for part in text.split(",") if part.strip())
        values = {name.strip(): value.strip() for name, _, value in pairs}
        try:
            return cls(**{name.replace("-", "_"): _READ[name](value) for name, value in values.items()})
        except (KeyError, ValueError) as error:
            raise BadRequestError(f"{FIELD}: {error}") from None


_READ: dict[str, Any] = {
    "status": int,
    "retry-after": int,
    "delay": Duration.parse,
    "usage": lambda value: value != "none",
    "cached": int,
    "tool": str,
    "cut": int,
    "drop": int,
}
