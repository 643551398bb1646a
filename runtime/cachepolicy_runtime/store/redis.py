"""The transport to one Redis server: a deadline for every call, one breaker, nothing retried.

It gives three verbs on bytes, :meth:`RedisTransport.call`, ``script`` and ``pipeline``, and raises
:class:`StoreUnavailable` only. A command that may have been sent is never sent again. While the breaker is
open a call is refused without touching the network, and a task of the transport, not a caller, looks whether
the server is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from cachepolicy_runtime.store.breaker import Breaker, BreakerSettings, Change
from cachepolicy_runtime.store.endpoint import Address, CredentialSource
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.failures import ErrorReply, reason_of
from cachepolicy_runtime.store.link import Argument, Call, Command, Link, Reply, open_connection, pack
from cachepolicy_runtime.store.lua import script as lua_script

_log = logging.getLogger("cachepolicy.store")

#: A timer that comes this much late tells that the event loop was blocked, not that the server was slow.
_LATE_S = 0.005
#: What a call then gets on top, for the answer that may already lie in the socket.
_GRACE_S = 0.01
#: How much longer than its deadline, in deadlines, a call may stand in a queue that moves.
_QUEUE_DEADLINES = 10
#: The same error answer is logged at most this often.
_REPEAT_S = 60.0
#: Seconds of silence after which a subscription asks whether the server is still there.
_QUIET_S = 5.0


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Bounds of one transport.

    Attributes:
        deadline_s: longest time a call may take, connecting included. Only while answers to other calls keep
            coming, so that the server is busy and not away, a call waits for its turn up to ten times as long.
        connect_deadline_s: longest time that making a connection may take; a caller does not wait for it
            longer than its own deadline.
        max_waiting: calls that may be under way at once; more are refused.
        breaker: when to stop asking and when to look again.
    """

    deadline_s: float = 0.1
    connect_deadline_s: float = 1.0
    max_waiting: int = 20_000
    breaker: BreakerSettings = field(default_factory=BreakerSettings)


class RedisTransport:
    """One server, one process, one event loop. Opens its connection with the first call."""

    def __init__(
        self,
        server: str,
        address: Address,
        credentials: CredentialSource,
        settings: TransportSettings | None = None,
    ) -> None:
        """``server`` (``state`` or ``cache``) names it in logs and errors; ``credentials`` is asked at every
        connect."""
        self.server = server
        self._address = address
        self._credentials = credentials
        self._settings = settings or TransportSettings()
        self._breaker = Breaker(time.monotonic, self._tell, self._settings.breaker)
        self._link: Link | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._waiting: list[Call] = []
        self._prober: asyncio.Task[None] | None = None
        self._retired: set[asyncio.Task[None]] = set()
        self._told: dict[str, float] = {}
        self._closed = False

    @property
    def deadline_s(self) -> float:
        return self._settings.deadline_s

    @property
    def available(self) -> bool:
        """False while the breaker is open."""
        return self._breaker.closed

    @property
    def reason(self) -> str:
        """Why it is not available; empty when it is."""
        return self._breaker.reason

    async def call(self, *command: Argument) -> Reply:
        """One command."""
        return self._good((await self._exchange([command], self._until()))[0])

    async def pipeline(self, commands: Sequence[Command]) -> list[Reply]:
        """Several commands in one round trip, no transaction; raises if any of them failed."""
        if not commands:
            return []
        return [self._good(reply) for reply in await self._exchange(commands, self._until())]

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Reply:
        """Run ``scripts/<name>.lua``. A server that does not know it yet gets its text, within the deadline."""
        script, until = lua_script(name), self._until()
        tail = (len(keys), *keys, *args)
        reply = (await self._exchange([("EVALSHA", script.sha, *tail)], until))[0]
        if isinstance(reply, ErrorReply) and reply.code == "NOSCRIPT":
            reply = (await self._exchange([("EVAL", script.text, *tail)], until))[0]
        return self._good(reply)

    async def listen(self, channel: str) -> AsyncGenerator[None, None]:
        """Yields once when subscribed and once for each message, on a connection of its own. Ends by raising
        StoreUnavailable; the breaker is not concerned."""
        connection = None
        try:
            async with asyncio.timeout(self._settings.connect_deadline_s):
                connection = await open_connection(self._address, self._credentials())
                await connection.send_command("SUBSCRIBE", channel)
            pinged = False
            while True:
                reply = await connection.read_response(timeout=_QUIET_S)
                if reply is None:
                    if pinged:
                        raise TimeoutError
                    await connection.send_command("PING", check_health=False)
                pinged = reply is None
                if reply is not None and reply[0] in (b"subscribe", b"message"):
                    yield
        except (RedisError, OSError) as error:
            raise StoreUnavailable(self.server, reason_of(error)) from None
        finally:
            if connection is not None:
                await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Close the connection; calls under way fail."""
        self._closed = True
        tasks = [task for task in (self._prober, self._dialling) if task is not None] + list(self._retired)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        calls, self._waiting = self._waiting, []
        if self._link is not None:
            link, self._link = self._link, None
            calls += link.take_unanswered()
            await link.aclose()
        self._fail(calls, "the transport was closed")

    # --- one call -----------------------------------------------------------------------------------------

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._settings.deadline_s

    async def _exchange(self, commands: Sequence[Command], until: float) -> list[Reply]:
        self._refuse_if_useless()
        call = self._new_call(commands)
        watch = _Watch(self, call, until)
        try:
            self._send(call)
            replies = await call.answer
        finally:
            watch.end()
        self._judge(replies)
        return replies

    def _refuse_if_useless(self) -> None:
        if self._closed:
            raise StoreUnavailable(self.server, "the transport was closed")
        if not self._breaker.closed:
            raise StoreUnavailable(self.server, self._breaker.reason)
        if len(self._waiting) + (self._link.unanswered if self._link else 0) >= self._settings.max_waiting:
            self._failed("too many calls are waiting")
            raise StoreUnavailable(self.server, "too many calls are waiting")

    def _new_call(self, commands: Sequence[Command]) -> Call:
        return Call(pack(commands), len(commands), asyncio.get_running_loop().create_future())

    def _send(self, call: Call) -> None:
        if self._link is not None:
            self._link.send(call)
            return
        self._waiting.append(call)
        if self._dialling is None:
            self._dialling = asyncio.create_task(self._dial())

    def heard_since(self, moment: float) -> bool:
        """Whether the server answered anything on this connection after ``moment`` of the event loop."""
        return self._link is not None and self._link.heard_at > moment

    def expire(self, call: Call) -> None:
        """Its deadline is over: the server is away."""
        reason = f"no answer within {self.deadline_s * 1000:.0f} ms"
        self._fail([call], reason)
        self._failed(reason)

    def _judge(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            if isinstance(reply, ErrorReply) and reply.whole_server:
                self._failed(reply.reason)
                return
        self._breaker.succeeded()

    def _good(self, reply: Reply) -> Reply:
        if not isinstance(reply, ErrorReply):
            return reply
        now = time.monotonic()
        if not reply.whole_server and now - self._told.get(reply.reason, float("-inf")) > _REPEAT_S:
            self._told[reply.reason] = now
            _log.warning("%s store: %s to a command", self.server, reply.reason)
        raise StoreUnavailable(self.server, reply.reason)

    # --- the connection -----------------------------------------------------------------------------------

    async def _dial(self) -> None:
        try:
            async with asyncio.timeout(self._settings.connect_deadline_s):
                connection = await open_connection(self._address, self._credentials())
        except (RedisError, OSError) as error:
            self._dialling = None
            self._failed(reason_of(error))
            return
        self._dialling = None
        self._link = Link(connection, self._lost)
        calls, self._waiting = self._waiting, []
        for call in calls:
            if not call.answer.done():
                self._link.send(call)

    def _lost(self, link: Link, reason: str, calls: list[Call]) -> None:
        """A server that closes an idle connection has done nothing wrong: the next call opens another."""
        if link is self._link:
            self._link = None
        self._fail(calls, reason)
        if calls:
            self._failed(reason)

    def _failed(self, reason: str) -> None:
        """Give up the connection with everything on it, count the failure, look for the server if it is away."""
        self._breaker.failed(reason)
        calls, self._waiting = self._waiting, []
        if self._link is not None:
            link, self._link = self._link, None
            calls += link.take_unanswered()
            self._retire(link)
        self._fail(calls, reason)
        if not self._breaker.closed and self._prober is None and not self._closed:
            self._prober = asyncio.create_task(self._probe_until_back())

    def _retire(self, link: Link) -> None:
        task = asyncio.create_task(link.aclose())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _fail(self, calls: Sequence[Call], reason: str) -> None:
        for call in calls:
            if not call.answer.done():
                call.answer.set_exception(StoreUnavailable(self.server, reason))

    async def _probe_until_back(self) -> None:
        while not self._breaker.closed:
            await asyncio.sleep(self._breaker.pause_left_s())
            if self._breaker.begin_probe():
                await self._probe()
        self._prober = None

    async def _probe(self) -> None:
        call = self._new_call([("PING",)])
        self._send(call)
        with suppress(StoreUnavailable):
            try:
                async with asyncio.timeout(self._settings.connect_deadline_s):
                    self._judge(await call.answer)
            except TimeoutError:
                self._failed("no answer to a PING")

    def _tell(self, change: Change) -> None:
        if change.available:
            _log.info("%s store: available again after %.1f s", self.server, change.away_s)
        else:
            _log.warning("%s store: unavailable (%s)", self.server, change.reason)


class _Watch:
    """The timer of one call. It ends the call when its time is over, and not when something else was to blame:
    a blocked event loop, or the queue in front of it.
    """

    __slots__ = ("_call", "_last", "_loop", "_timer", "_transport")

    def __init__(self, transport: RedisTransport, call: Call, until: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._call = call
        self._last = until + (_QUEUE_DEADLINES - 1) * transport.deadline_s
        self._timer = self._loop.call_at(until, self._over, until)

    def end(self) -> None:
        self._timer.cancel()

    def _over(self, until: float) -> None:
        if self._call.answer.done():
            return
        now = self._loop.time()
        if now - until > _LATE_S:
            self._again(now + _GRACE_S)
        elif now < self._last and self._transport.heard_since(now - self._transport.deadline_s):
            self._again(min(now + self._transport.deadline_s, self._last))
        else:
            self._transport.expire(self._call)

    def _again(self, until: float) -> None:
        self._timer = self._loop.call_at(until, self._over, until)
