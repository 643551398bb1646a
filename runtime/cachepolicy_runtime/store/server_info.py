"""How full the cache server is, asked rarely: the figures of ``/cache/stats``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.replies import blob
from cachepolicy_runtime.store.transport import Transport

#: Figures are at most this old, however often they are asked for.
FRESH_S = 5.0


class ServerFigures(NamedTuple):
    """What a server says about itself; None where it does not.

    Attributes:
        keys: in all databases, of everybody who uses the server.
        used_bytes, max_bytes: memory in use, and the most that it takes (0: no limit).
        evicted: keys dropped for want of memory since it started.
    """

    keys: int | None = None
    used_bytes: int | None = None
    max_bytes: int | None = None
    evicted: int | None = None

    def as_dict(self) -> dict[str, int | None]:
        return {
            "keys": self.keys,
            "usedBytes": self.used_bytes,
            "maxBytes": self.max_bytes,
            "evicted": self.evicted,
        }


class Memory(Protocol):
    """A cache in this process."""

    def figures(self) -> ServerFigures: ...


class ServerInfo:
    """Asks at most once in :data:`FRESH_S` and never fails: what cannot be asked is unknown."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: Transport | None = None
        self._asked_at = float("-inf")
        self._figures = ServerFigures()

    async def figures(self, server: Transport | None, memory: Memory) -> ServerFigures:
        """Those of ``server``, else of the cache in this process."""
        if server is None:
            return memory.figures()
        now = self._clock()
        if server is not self._asked or now - self._asked_at >= FRESH_S:
            if server is not self._asked:
                self._figures = ServerFigures()
            # Marked before the answer: whoever asks meanwhile takes what is known.
            self._asked, self._asked_at = server, now
            self._figures = await _ask(server)
        return self._figures


async def _ask(server: Transport) -> ServerFigures:
    try:
        replies = await server.each("INFO", "memory", "keyspace", "stats")
        return sum_of(parse_info(blob(reply).decode()) for reply in replies)
    except StoreUnavailable:
        return ServerFigures()


def sum_of(figures: Iterable[ServerFigures]) -> ServerFigures:
    """Those of all servers of a cluster together; what one of them does not tell is unknown."""
    return ServerFigures(*(_total(column) for column in zip(*figures, strict=True)))


def _total(column: tuple[int | None, ...]) -> int | None:
    known = [number for number in column if number is not None]
    return sum(known) if len(known) == len(column) else None


def parse_info(info: str) -> ServerFigures:
    """INFO's lines ``name:value`` (https://redis.io/docs/latest/commands/info/)."""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    databases = [value for name, value in fields.items() if name.startswith("db") and name[2:].isdigit()]
    return ServerFigures(
        keys=sum(int(value.partition("keys=")[2].partition(",")[0] or 0) for value in databases),
        used_bytes=_integer(fields.get("used_memory")),
        max_bytes=_integer(fields.get("maxmemory")),
        evicted=_integer(fields.get("evicted_keys")),
    )


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
