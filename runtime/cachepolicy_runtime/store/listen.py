"""A subscription: a connection that only listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from cachepolicy_runtime.store.dial import Dialler
from cachepolicy_runtime.store.endpoint import Credentials
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.failures import ErrorReply, Refused, reason_of
from cachepolicy_runtime.store.link import Link
from cachepolicy_runtime.store.wire import Reply, pack

#: Seconds of silence after which a subscription asks whether the server is still there.
QUIET_S = 5.0
#: Messages that nobody has looked at yet; with more, all are dropped and that is told.
_WAITING = 1024


MISSED: Reply = [b"message", b"", b""]


class Subscription(Link):
    """Every reply after the handshake is a message; None tells the end, :data:`MISSED` that some were dropped."""

    def __init__(self, login: Credentials) -> None:
        super().__init__(login)
        self._messages: asyncio.Queue[Reply] = asyncio.Queue()
        self._listening = False

    def subscribe(self, channel: str) -> None:
        self._listening = True
        self._say(b"SUBSCRIBE", channel)

    def ping(self) -> None:
        self._say(b"PING")

    async def message(self) -> Reply:
        """The next one; None when the connection is gone."""
        return await self._messages.get()

    def _say(self, *command: bytes | str) -> None:
        if self._transport is not None:
            self._transport.write(pack(command))

    def _deal(self, replies: list[Reply]) -> None:
        if not self._listening:
            super()._deal(replies)
            return
        if self._messages.qsize() + len(replies) > _WAITING:
            while not self._messages.empty():
                self._messages.get_nowait()
            replies = [MISSED]
        for reply in replies:
            self._messages.put_nowait(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._messages.put_nowait(None)


async def listen(
    server: str, dialler: Dialler, channel: str, connect_s: float
) -> AsyncGenerator[bytes, None]:
    """Yields the payload of each message, and an empty one when subscribed and where some may have been missed.
    Ends by raising StoreUnavailable."""
    link: Subscription | None = None
    try:
        async with asyncio.timeout(connect_s):
            link = await dialler.open(Subscription)
            link.subscribe(channel)
            first = await link.message()
        _subscribed(first)
        yield b""
        async for payload in _messages(link):
            yield payload
    except (OSError, ValueError, Refused) as error:
        raise StoreUnavailable(server, reason_of(error)) from None
    finally:
        if link is not None:
            link.drop()


def _subscribed(first: Reply) -> None:
    if isinstance(first, ErrorReply):
        raise Refused(first.reason)
    if first is None:
        raise ConnectionResetError


async def _messages(link: Subscription) -> AsyncGenerator[bytes, None]:
    """Raises ``ConnectionResetError`` when the connection is lost, ``TimeoutError`` where the server is silent
    when asked."""
    asked = False
    while True:
        try:
            async with asyncio.timeout(QUIET_S):
                reply = await link.message()
        except TimeoutError:
            if asked:
                raise
            link.ping()
            asked = True
            continue
        if reply is None:
            raise ConnectionResetError
        asked = False
        match reply:
            case [b"message", _, bytes(payload)]:
                yield payload
