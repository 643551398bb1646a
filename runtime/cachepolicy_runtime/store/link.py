"""One open connection that many calls share.

Redis answers in the order of the questions, so calls do not wait for each other: what is said together leaves
in one write, and the answers are dealt to the calls in that order. No task reads or writes: the event loop
calls :meth:`Link.data_received` (https://docs.python.org/3/library/asyncio-protocol.html).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, cast

from cachepolicy_runtime.store.endpoint import Credentials
from cachepolicy_runtime.store.failures import ErrorReply, reason_of
from cachepolicy_runtime.store.wire import Argument, Command, Parser, ProtocolError, Reply, pack

__all__ = ["Answer", "Argument", "Call", "Command", "Link", "LinkOwner", "Reply", "Resend"]

#: A script that the server may not know, to be sent with its text: the text, the keys, the arguments.
Resend = tuple[bytes, Sequence[str], Sequence[Argument]]


class Answer(Protocol):
    """Who gets the reply: a future, or what looks like one to who has the reply."""

    def done(self) -> bool: ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: Exception, /) -> None: ...


class Call:
    """Bytes on their way and who waits for the answer.

    Attributes:
        packed: one or more commands.
        wanted: replies that it takes; with more than one, ``answer`` gets a list of all.
        answer: gets the reply, or StoreUnavailable.
        until: event-loop time at which its deadline is over.
        script: how to send it again where the server does not know the script.
        raw: an error that the server answers is a reply like others, for who made the call.
        again: it was sent a second time, after an answer which says that nothing was done.
    """

    __slots__ = ("again", "answer", "packed", "raw", "replies", "script", "until", "wanted")

    def __init__(
        self,
        packed: bytes,
        wanted: int,
        answer: Answer,
        until: float,
        script: Resend | None = None,
        *,
        raw: bool = False,
    ) -> None:
        self.packed = packed
        self.wanted = wanted
        self.answer = answer
        self.until = until
        self.script = script
        self.raw = raw
        self.again = False
        self.replies: list[Reply] = []


class LinkOwner(Protocol):
    """Whom a link tells. Every method may drop the link."""

    def heard(self, link: Link) -> None:
        """Replies came, and were dealt out."""

    def refused(self, link: Link, call: Call, reply: ErrorReply) -> None:
        """The server answered an error; the call still has no answer."""

    def lost(self, link: Link, reason: str, calls: list[Call]) -> None:
        """The connection is gone, and these calls were sent and not answered. Told once, and not after
        :meth:`Link.drop`."""

    def writable(self, link: Link) -> None:
        """The socket takes more again."""


class Link(asyncio.Protocol):
    """A connection from its handshake to its end.

    Attributes:
        login: what it logged in with last.
        unanswered: calls that were sent, oldest first.
        heard_at: event-loop time of the last bytes from the server.
        useful: the server answered a call of the owner's on it.
        ready: False while the socket takes no more.
    """

    def __init__(self, login: Credentials) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = Parser()
        self._transport: asyncio.WriteTransport | None = None
        self._owner: LinkOwner | None = None
        self.login = login
        self.unanswered: deque[Call] = deque()
        self.heard_at = float("-inf")
        self.useful = False
        self.ready = True
        self.ended: asyncio.Future[None] = self._loop.create_future()

    # --- what an owner does

    def belong_to(self, owner: LinkOwner) -> None:
        """From now on ``owner`` is told; raises ``ConnectionError`` if the connection is gone already."""
        if self.ended.done():
            raise ConnectionResetError
        self._owner = owner

    def write(self, calls: Sequence[Call]) -> None:
        """Send them in one write."""
        self.unanswered.extend(calls)
        if self._transport is not None:
            if len(calls) == 1:
                self._transport.write(calls[0].packed)
            else:
                self._transport.write(b"".join([call.packed for call in calls]))

    async def ask(self, *commands: Command) -> list[Reply]:
        """Some commands of a handshake, their errors among the replies; raises ``OSError``."""
        answer = self._loop.create_future()
        self.write([Call(b"".join(map(pack, commands)), len(commands), answer, until=float("inf"), raw=True)])
        replies = await answer
        return replies if len(commands) > 1 else [replies]

    def take_unanswered(self) -> list[Call]:
        """The calls that will get no answer here any more."""
        calls = list(self.unanswered)
        self.unanswered.clear()
        return calls

    def drop(self) -> list[Call]:
        """Close at once and tell nobody; returns the calls that were not answered."""
        self._owner = None
        if self._transport is not None:
            self._transport.abort()
        return self.take_unanswered()

    # --- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # a stream's; uvloop's are no subclass

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        try:
            replies = self._parser.feed(data)
            self._deal(replies)
        except (ProtocolError, IndexError):  # or more answers than questions
            self._end("the server does not speak the Redis protocol")
            return
        if replies and self._owner is not None:
            self._owner.heard(self)

    def _deal(self, replies: list[Reply]) -> None:
        unanswered = self.unanswered
        for reply in replies:
            call = unanswered[0]
            error: Reply = reply
            if call.wanted > 1:
                call.replies.append(reply)
                if len(call.replies) < call.wanted:
                    continue
                reply = call.replies  # noqa: PLW2901 - the last one completes them
                error = next((one for one in call.replies if type(one) is ErrorReply), None)
            unanswered.popleft()
            if type(error) is ErrorReply and not call.raw:
                if self._owner is not None:
                    self._owner.refused(self, call, error)
                if self._owner is None:  # dropped, and with it all that was not answered
                    return
            elif not call.answer.done():
                call.answer.set_result(reply)

    def pause_writing(self) -> None:
        self.ready = False

    def resume_writing(self) -> None:
        self.ready = True
        if self._owner is not None:
            self._owner.writable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(reason_of(exc), exc)
        if not self.ended.done():
            self.ended.set_result(None)

    def _end(self, reason: str, cause: Exception | None = None) -> None:
        owner, calls = self._owner, self.drop()
        for call in [call for call in calls if call.raw and not call.answer.done()]:
            call.answer.set_exception(cause or ConnectionResetError())
        if owner is not None:
            owner.lost(self, reason, [call for call in calls if not call.raw])
