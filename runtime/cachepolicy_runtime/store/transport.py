"""What the stores see of a connection to Redis, whatever servers stand behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cachepolicy_runtime.store.breaker import BreakerSettings
from cachepolicy_runtime.store.link import Answer
from cachepolicy_runtime.store.wire import Argument, Command, Reply


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Bounds of one transport.

    Attributes:
        deadline_s: longest time a call may take, connecting included. Only while answers keep coming, so that the
            server is busy and not away, a call waits for its turn up to ten times as long.
        connect_deadline_s: longest time that making a connection may take; a caller does not wait for it
            longer than its own deadline.
        max_waiting: calls that may be under way at once on a connection; more are refused.
        max_queued_bytes: the same for the bytes of those that were not sent yet.
        bulk_bytes: a command of this size goes over a second connection, so that small ones are not held up
            by it. None: there is only one connection.
        breaker: when to stop asking and when to look again.
    """

    deadline_s: float = 0.1
    connect_deadline_s: float = 1.0
    max_waiting: int = 20_000
    max_queued_bytes: int = 64 << 20
    bulk_bytes: int | None = 64 << 10
    breaker: BreakerSettings = field(default_factory=BreakerSettings)


class Transport(Protocol):
    """The verbs. All raise StoreUnavailable only, and a command that may have been carried out is never sent
    again."""

    server: str

    @property
    def available(self) -> bool:
        """False while the breaker is open."""
        ...

    @property
    def reason(self) -> str:
        """Why it is not available; empty when it is."""
        ...

    @property
    def outages(self) -> int:
        """How often the breaker opened since this connection was made."""
        ...

    async def call(self, *command: Argument, bulk: bool = False) -> Reply:
        """One command. ``bulk``: its answer is large, so it goes over the second connection."""
        ...

    def call_nowait(self, *command: Argument, bulk: bool = False) -> asyncio.Future[Any]:
        """The same without a coroutine, for callers that count microseconds. The future gets the reply or
        StoreUnavailable and has to be awaited or cancelled; an open breaker raises at once."""
        ...

    async def pipeline(self, commands: Sequence[Command]) -> list[Reply]:
        """Several commands in one round trip, no transaction; raises if any of them failed."""
        ...

    async def each(self, *command: Argument) -> list[Reply]:
        """One command at every server that holds data: one reply each."""
        ...

    def packed(self, commands: bytes, wanted: int) -> asyncio.Future[Any]:
        """``wanted`` commands that the caller has packed (``wire.pack``), as a future of their replies, or of the
        one. A cluster has to see the keys and raises ``TypeError``."""
        ...

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Reply:
        """Run ``scripts/<name>.lua``. A server that does not know it yet gets its text, within the deadline."""
        ...

    def script_nowait(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> asyncio.Future[Any]:
        """The same as a future, see :meth:`call_nowait`."""
        ...

    def script_into(self, answer: Answer, name: str, keys: Sequence[str], args: Sequence[Argument]) -> None:
        """The same for an object of the caller's, which is told as soon as the reply is read."""
        ...

    def gather(self, collect: Callable[[], None]) -> None:
        """Call ``collect`` just before what is called in this turn of the event loop is sent: what it calls
        itself leaves in the same write. It must not raise; an open breaker raises here at once."""
        ...

    def listen(self, channel: str) -> AsyncGenerator[bytes, None]:
        """Yields the payload of each message, and an empty one when subscribed and where some may have been
        missed; on a connection of its own. Ends by raising StoreUnavailable; the breaker is not concerned."""
        ...

    async def aclose(self) -> None:
        """Close the connections; calls under way fail."""
        ...
