"""A streaming answer of a provider, as those see it who pass it on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol


class ByteStream(Protocol):
    """Bytes that are passed on as they come. Whoever has one closes it, whatever happens.

    Attributes:
        headers: those of the answer that belong to its content, names in lower case.
    """

    @property
    def headers(self) -> Mapping[str, str]: ...

    def chunks(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...
