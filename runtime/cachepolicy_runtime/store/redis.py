"""The transport to one Redis server: a deadline for every call, one breaker, nothing retried.

It gives the verbs of :class:`~cachepolicy_runtime.store.transport.Transport` and raises
:class:`StoreUnavailable` only. A command that may have been carried out is never sent again. While the breaker
is open a call is refused without touching the network, and a task of the transport, not a caller, looks whether
the server is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any

from cachepolicy_runtime.store.breaker import Breaker, Change, State
from cachepolicy_runtime.store.dial import Dialler
from cachepolicy_runtime.store.endpoint import NO_LOGIN, Address, CredentialSource, Topology
from cachepolicy_runtime.store.errors import Redirected, StoreUnavailable
from cachepolicy_runtime.store.failures import ErrorReply
from cachepolicy_runtime.store.lane import Lane
from cachepolicy_runtime.store.link import Answer, Call, Resend
from cachepolicy_runtime.store.listen import listen
from cachepolicy_runtime.store.lua import script as lua_script
from cachepolicy_runtime.store.tls import TlsContext, TlsFiles
from cachepolicy_runtime.store.transport import TransportSettings
from cachepolicy_runtime.store.wire import Argument, Command, Reply, pack, pack_arguments, script_head

__all__ = ["RedisTransport", "TransportSettings"]

_log = logging.getLogger("cachepolicy.store")

#: The same error answer is logged at most this often.
_REPEAT_S = 60.0
#: A server that refuses writes is connected to anew at most this often: behind the name may be another by now.
_RENEW_S = 1.0
#: What is asked of a server that was away. A node of a cluster answers PING also while the cluster is down.
_PROBE: Command = ("PING",)
_CLUSTER_PROBE: Command = ("EXISTS", "{probe}")
_CLOSED = "the transport was closed"
_TOO_MANY = "too many calls are waiting"


class RedisTransport:
    """One server, one process, one event loop. Opens its connections with the first call that needs them."""

    def __init__(
        self,
        server: str,
        address: Address,
        credentials: CredentialSource,
        settings: TransportSettings | None = None,
        *,
        tls: TlsFiles | None = None,
        sentinel_credentials: CredentialSource = NO_LOGIN,
    ) -> None:
        """``server`` (``state`` or ``cache``) names it in logs and errors; ``credentials`` is asked at every
        connect and about once a second while calls are made; ``sentinel_credentials`` are for the Sentinels."""
        self.server = server
        self._settings = settings or TransportSettings()
        self._sentinel = address.topology is Topology.SENTINEL
        self._probe_command = _CLUSTER_PROBE if address.clustered else _PROBE
        self._dialler = Dialler(
            address,
            credentials,
            TlsContext(tls or TlsFiles()),
            sentinel_credentials=sentinel_credentials,
            name=server,
            # So that it is told apart from a server that does not answer at all.
            handshake_s=0.9 * self._settings.connect_deadline_s,
        )
        self._breaker = Breaker(time.monotonic, self._tell, self._settings.breaker)
        self._lane = self._new_lane()
        self._bulk: Lane | None = None
        self._bulk_bytes = self._settings.bulk_bytes or float("inf")
        self._prober: asyncio.Task[None] | None = None
        self._told: dict[str, float] = {}
        self._renewed_at = float("-inf")
        self._suspect = False
        self._closed = False

    @property
    def deadline_s(self) -> float:
        return self._settings.deadline_s

    @property
    def available(self) -> bool:
        return self._breaker.closed

    @property
    def reason(self) -> str:
        return self._breaker.reason

    @property
    def outages(self) -> int:
        return self._breaker.opened

    async def call(self, *command: Argument, bulk: bool = False) -> Reply:
        reply: Reply = await self.call_nowait(*command, bulk=bulk)
        return reply

    def call_nowait(self, *command: Argument, bulk: bool = False) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        self._submit(answer, pack(command), bulk=bulk)
        return answer

    async def pipeline(self, commands: Sequence[Command]) -> list[Reply]:
        if not commands:
            return []
        replies = await self.packed(b"".join(map(pack, commands)), len(commands))
        return replies if len(commands) > 1 else [replies]

    async def each(self, *command: Argument) -> list[Reply]:
        return [await self.call(*command)]

    def packed(self, commands: bytes, wanted: int) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        self._submit(answer, commands, wanted)
        return answer

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Reply:
        reply: Reply = await self.script_nowait(name, keys, args)
        return reply

    def script_nowait(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        self.script_into(answer, name, keys, args)
        return answer

    def script_into(self, answer: Answer, name: str, keys: Sequence[str], args: Sequence[Argument]) -> None:
        script = lua_script(name)
        head = script_head(script.sha, len(keys), len(args))
        packed = head + pack_arguments((*keys, *args))
        self._submit(answer, packed, script=(script.text, keys, args))

    def gather(self, collect: Callable[[], None]) -> None:
        self._refuse_if_useless()
        self._lane.gather(collect)

    def listen(self, channel: str) -> AsyncGenerator[bytes, None]:
        return listen(self.server, self._dialler, channel, self._settings.connect_deadline_s)

    async def aclose(self) -> None:
        self._closed = True
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        for lane in self._lanes():
            self._fail(await lane.aclose(), _CLOSED)

    # --- one call -----------------------------------------------------------------------------------------

    def _refuse_if_useless(self) -> None:
        if self._closed or not self._breaker.closed:
            raise StoreUnavailable(self.server, _CLOSED if self._closed else self._breaker.reason)

    def _submit(
        self,
        answer: Answer,
        packed: bytes,
        wanted: int = 1,
        *,
        script: Resend | None = None,
        bulk: bool = False,
    ) -> None:
        self._refuse_if_useless()
        lane = self._bulk_lane() if bulk or len(packed) >= self._bulk_bytes else self._lane
        if lane.waiting >= self._settings.max_waiting or lane.queued_bytes > self._settings.max_queued_bytes:
            self._shed()
        until = asyncio.get_running_loop().time() + self._settings.deadline_s
        lane.send(Call(packed, wanted, answer, until, script))

    def _shed(self) -> None:
        """Refuse the one call that is too much. The others are not to suffer, and a server that hangs is found
        out by the deadline of the first of them."""
        self._log_once(_TOO_MANY, "%s store: %s, more are refused")
        raise StoreUnavailable(self.server, _TOO_MANY)

    def _bulk_lane(self) -> Lane:
        if self._settings.bulk_bytes is None:
            return self._lane
        if self._bulk is None:
            self._bulk = self._new_lane()
        return self._bulk

    def _new_lane(self) -> Lane:
        settings = self._settings
        return Lane(self, self._dialler, settings.deadline_s, settings.connect_deadline_s)

    def _lanes(self) -> tuple[Lane, ...]:
        return (self._lane,) if self._bulk is None else (self._lane, self._bulk)

    # --- what lanes tell ----------------------------------------------------------------------------------

    def answered(self) -> None:
        if not self._suspect:
            self._breaker.succeeded()
        self._suspect = False

    def refused(self, lane: Lane, call: Call, reply: ErrorReply) -> None:
        """An answer which says that nothing was done may be followed by a second try, the others not."""
        if reply.code == "NOSCRIPT" and call.script is not None:
            text, keys, args = call.script
            call.packed = pack(("EVAL", text, len(keys), *keys, *args))
            call.script = None
            lane.send(call)
        elif reply.code == "NOAUTH" and call.wanted == 1 and not call.again:
            call.again = True
            lane.renew()
            lane.send(call)
        elif reply.where:
            self._settle(call, Redirected(self.server, reply.reason, reply.where, asking=reply.code == "ASK"))
        else:
            self._settle(call, StoreUnavailable(self.server, reply.reason))
            self._judge(reply)

    def failed(self, lane: Lane, calls: list[Call], reason: str, *, away: bool) -> None:
        self._fail(calls, reason)
        if away:
            self._failed(reason)

    def _judge(self, reply: ErrorReply) -> None:
        """What an error says about the server."""
        if reply.whole_server or (reply.code == "READONLY" and self._sentinel):
            self._failed(reply.reason)
            # Where the breaker bears more failures, the connection goes on, and tells next that it was heard.
            self._suspect = self._breaker.closed
            return
        self._log_once(reply.reason, "%s store: %s to a command")
        if reply.code == "READONLY" and time.monotonic() - self._renewed_at > _RENEW_S:
            self._renewed_at = time.monotonic()
            for lane in self._lanes():
                lane.renew()

    def _failed(self, reason: str) -> None:
        """Count the failure. If the server is away now, give up everything and look for it."""
        self._breaker.failed(reason)
        if self._breaker.closed or self._closed:
            return
        for lane in self._lanes():
            self._fail(lane.drop(), reason)
        if self._prober is None:
            self._prober = asyncio.get_running_loop().create_task(self._probe_until_back())

    def _fail(self, calls: Iterable[Call], reason: str) -> None:
        for call in calls:
            self._settle(call, StoreUnavailable(self.server, reason))

    def _settle(self, call: Call, error: StoreUnavailable) -> None:
        if not call.answer.done():
            call.answer.set_exception(error)

    def _log_once(self, reason: str, message: str) -> None:
        now = time.monotonic()
        if now - self._told.get(reason, float("-inf")) > _REPEAT_S:
            self._told[reason] = now
            _log.warning(message, self.server, reason)

    # --- looking for the server ---------------------------------------------------------------------------

    async def _probe_until_back(self) -> None:
        while not self._breaker.closed:
            await asyncio.sleep(self._breaker.pause_left_s())
            if self._breaker.begin_probe():
                await self._probe()
        self._prober = None

    async def _probe(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.connect_deadline_s
        answer = loop.create_future()
        self._lane.send(Call(pack(self._probe_command), 1, answer, until))
        try:
            await answer
        except StoreUnavailable as error:
            if (
                self._breaker.state is State.HALF_OPEN
            ):  # the failure was not counted: the connection was to blame
                self._breaker.failed(error.reason)

    def _tell(self, change: Change) -> None:
        if change.available:
            _log.info("%s store: available again after %.1f s", self.server, change.away_s)
        else:
            _log.warning("%s store: unavailable (%s)", self.server, change.reason)
