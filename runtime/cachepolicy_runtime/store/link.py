"""One connection that many calls share.

Redis answers in the order of the questions, so calls do not wait for each other: whatever the calls of one
turn of the event loop have to say leaves in one write, and the answers are dealt out as they come. A thousand
concurrent calls need one connection and no pool to wait for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisError, ResponseError

from cachepolicy_runtime.store.endpoint import Address, Credentials
from cachepolicy_runtime.store.failures import ErrorReply, error_reply, reason_of

Argument: TypeAlias = "bytes | str | int"
Command: TypeAlias = Sequence[Argument]
Reply: TypeAlias = "bytes | int | ErrorReply | list[Reply] | None"


def pack(commands: Sequence[Command]) -> bytes:
    """The commands in the Redis protocol (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for argument in command:
            value = argument if isinstance(argument, bytes) else str(argument).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return b"".join(parts)


@dataclass(slots=True, eq=False)
class Call:
    """Commands on their way and the replies that have come; ``answer`` gets all of them, or an exception."""

    packed: bytes
    wanted: int
    answer: asyncio.Future[list[Reply]]
    replies: list[Reply] = field(default_factory=list)


def new_connection(address: Address, credentials: Credentials) -> AbstractConnection:
    """A redis-py connection, not yet open. It has no timeouts of its own: deadlines are the transport's."""
    common: dict[str, Any] = {
        "db": address.db,
        "username": credentials.username,
        "password": credentials.password,
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": None,
    }
    if address.path:
        return UnixDomainSocketConnection(path=address.path, **common)
    kind = SSLConnection if address.tls else Connection
    return kind(host=address.host, port=address.port, **common)


async def open_connection(address: Address, credentials: Credentials) -> AbstractConnection:
    """Connect and log in. Cancelling it closes what was opened."""
    connection = new_connection(address, credentials)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


#: Calls that are with the server at once. A server answers a batch when it has done all of it: a smaller batch
#: makes it heard more often, which is how a busy server is told from one that hangs.
IN_FLIGHT = 64


class Link:
    """An open connection with its two tasks. ``on_lost`` is called once, unless :meth:`aclose` came first."""

    def __init__(
        self, connection: AbstractConnection, on_lost: Callable[[Link, str, list[Call]], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._on_lost = on_lost
        self._queued: deque[Call] = deque()
        self._unanswered: deque[Call] = deque()
        self._more = asyncio.Event()
        self.heard_at = float("-inf")
        """Event-loop time of the last reply."""
        self._tasks = (asyncio.create_task(self._read()), asyncio.create_task(self._write()))

    def send(self, call: Call) -> None:
        self._queued.append(call)
        self._more.set()

    @property
    def unanswered(self) -> int:
        return len(self._unanswered) + len(self._queued)

    def take_unanswered(self) -> list[Call]:
        """The calls that will get no answer here any more."""
        calls = [*self._unanswered, *self._queued]
        self._unanswered.clear()
        self._queued.clear()
        return calls

    def abort(self) -> None:
        """Stop at once; the tasks close the connection as they end."""
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        self.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.disconnect(nowait=True)

    async def _write(self) -> None:
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                chunk = self._next_batch()
                # Without this look redis-py would open a connection that the lost one was already given up for.
                if chunk and self._connection.is_connected:
                    await self._connection.send_packed_command(chunk, check_health=False)
        except (RedisError, OSError) as error:
            self._lost(error)

    def _next_batch(self) -> list[bytes]:
        """What may be sent now. A call that nobody waits for any more is not sent at all."""
        batch: list[bytes] = []
        while self._queued and len(self._unanswered) < IN_FLIGHT:
            call = self._queued.popleft()
            if not call.answer.done():
                self._unanswered.append(call)
                batch.append(call.packed)
        return batch

    async def _read(self) -> None:
        try:
            while True:
                self._deal(await self._reply())
        except (RedisError, OSError) as error:
            self._lost(error)
        finally:
            await self._connection.disconnect(nowait=True)

    async def _reply(self) -> Reply:
        try:
            reply: Reply = await self._connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error_reply(error)
        return reply

    def _deal(self, reply: Reply) -> None:
        self.heard_at = self._loop.time()
        call = self._unanswered[0]
        call.replies.append(reply)
        if len(call.replies) == call.wanted:
            self._unanswered.popleft()
            if self._queued:
                self._more.set()
            if not call.answer.done():
                call.answer.set_result(call.replies)

    def _lost(self, error: BaseException) -> None:
        self._on_lost(self, reason_of(error), self.take_unanswered())
        self.abort()
