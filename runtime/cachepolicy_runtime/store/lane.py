"""Calls in order over one connection, which is opened when it is needed and again when it was lost.

What is called in one turn of the event loop leaves in one write at the end of the turn. One timer looks after
the deadlines of all calls: they have the same budget, so it is enough to look at the oldest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from cachepolicy_runtime.store.dial import Dialler, log_in
from cachepolicy_runtime.store.failures import ErrorReply, Refused, reason_of
from cachepolicy_runtime.store.link import Call, Link
from cachepolicy_runtime.store.wire import pack

#: Calls that are with the server at once. A server answers a batch when it has done all of it: a smaller batch
#: makes it heard more often, which is how a busy server is told from one that hangs.
IN_FLIGHT = 64
#: A timer that comes this much late tells that the event loop was blocked, not that the server was slow.
_LATE_S = 0.005
#: What a call then gets on top, for the answer that may already lie in the socket.
_GRACE_S = 0.01
#: How much longer than its deadline, in deadlines, a call may stand in a queue that moves.
_QUEUE_DEADLINES = 10
#: Seconds between two looks whether the login was changed, and after the server refused the new one.
_LOGIN_EVERY_S = 1.0
_LOGIN_REFUSED_S = 5.0


class LaneOwner(Protocol):
    """Whom a lane tells."""

    def answered(self) -> None:
        """The server answered something that is no failure of the whole server."""

    def refused(self, lane: Lane, call: Call, reply: ErrorReply) -> None:
        """An error came for a call that still has no answer."""

    def failed(self, lane: Lane, calls: list[Call], reason: str, *, away: bool) -> None:
        """These calls will get no answer. ``away``: the server is to blame and not this connection alone."""


class Lane:
    """One connection's worth of calls. ``deadline_s`` is the budget of each call, ``connect_s`` that of a connect."""

    def __init__(self, owner: LaneOwner, dialler: Dialler, deadline_s: float, connect_s: float) -> None:
        self._owner = owner
        self._dialler = dialler
        self._deadline_s = deadline_s
        self._connect_s = connect_s
        self._queue: deque[Call] = deque()
        self._queued_bytes = 0
        self._link: Link | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Future[None]] = set()
        self._retiring: list[Link] = []
        self._flushing = False
        self._collectors: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._graced = False
        self._look_at_login = 0.0

    @property
    def waiting(self) -> int:
        """Calls that have no answer yet."""
        return len(self._queue) + (len(self._link.unanswered) if self._link else 0)

    @property
    def queued_bytes(self) -> int:
        """Bytes that were not given to a connection yet."""
        return self._queued_bytes

    def send(self, call: Call) -> None:
        self._queue.append(call)
        self._queued_bytes += len(call.packed)
        if not self._flushing:
            self._flush_soon()

    def gather(self, collect: Callable[[], None]) -> None:
        """Call ``collect`` before the next write; what it sends leaves in that one."""
        self._collectors.append(collect)
        if not self._flushing:
            self._flush_soon()

    def drop(self) -> list[Call]:
        """Give up the connection with everything on it; returns the calls that got no answer."""
        link, self._link = self._link, None
        calls = [call for call in self._let_go(link) if not call.raw] if link else []
        for retired in self._retiring:
            calls += self._let_go(retired)
        calls += self._queue
        self._retiring.clear()
        self._queue.clear()
        self._queued_bytes = 0
        return calls

    def renew(self) -> None:
        """Use another connection for what was not sent yet; this one goes when all of it is answered."""
        link, self._link = self._link, None
        if link is not None:
            self._retiring.append(link)
            self._retire(link)
            self._flush_soon()

    async def aclose(self) -> list[Call]:
        """Close; returns the calls that got no answer."""
        calls = self.drop()
        if self._timer is not None:
            self._timer.cancel()
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.gather(self._dialling, return_exceptions=True)
            calls += self.drop()
        await asyncio.gather(*self._closing)
        return calls

    # --- the way out

    def _flush_soon(self) -> None:
        self._flushing = True
        asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        while self._collectors:
            self._collectors.pop(0)()
        self._flushing = False
        if self._link is not None:
            self._fill(self._link)
        elif self._dialling is None and self._queue:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())
        # A timer that is later than the deadline of a new call was set for the probe of an outage.
        if self._timer is None or self._timer_at > asyncio.get_running_loop().time() + self._deadline_s:
            self._watch()

    def _fill(self, link: Link) -> None:
        """Send what may be sent now. A call that nobody waits for any more is not sent at all."""
        room, queue = IN_FLIGHT - len(link.unanswered), self._queue
        if not link.ready:
            return
        batch: list[Call] = []
        while queue and len(batch) < room:
            call = queue.popleft()
            self._queued_bytes -= len(call.packed)
            if not call.answer.done():
                batch.append(call)
        if batch:
            link.write(batch)

    async def _dial(self) -> None:
        try:
            async with asyncio.timeout(self._connect_s):
                link = await self._dialler.open(Link)
            link.belong_to(self)
        except (OSError, ValueError, Refused) as error:
            self._dialling = None
            self._fail(reason_of(error), away=True)
            return
        self._dialling = None
        self._link = link
        self._fill(link)

    # --- what comes back

    def heard(self, link: Link) -> None:
        link.useful = True
        self._owner.answered()
        if self._queue:
            self._flush()
        if self._retiring:
            self._retire(link)

    def writable(self, link: Link) -> None:
        if link is self._link:
            self._fill(link)

    def refused(self, link: Link, call: Call, reply: ErrorReply) -> None:
        self._owner.refused(self, call, reply)

    def lost(self, link: Link, reason: str, calls: list[Call]) -> None:
        """A server that closes an idle connection has done nothing wrong: the next call opens another. Only
        one that closes each without an answer is away."""
        if link is self._link:
            self._link = None
        elif link in self._retiring:
            self._retiring.remove(link)
        if calls:
            self._owner.failed(self, calls, reason, away=not link.useful)
        if self._queue:
            self._flush()

    def _fail(self, reason: str, *, away: bool) -> None:
        self._owner.failed(self, self.drop(), reason, away=away)

    def _retire(self, link: Link) -> None:
        if link in self._retiring and not link.unanswered:
            self._retiring.remove(link)
            self._let_go(link)

    def _let_go(self, link: Link) -> list[Call]:
        if not link.ended.done():
            self._closing.add(link.ended)
            link.ended.add_done_callback(self._closing.discard)
        return link.drop()

    # --- time

    def _oldest(self) -> Call | None:
        for link in (*self._retiring, self._link):
            if link is not None and link.unanswered:
                return link.unanswered[0]
        return self._queue[0] if self._queue else None

    def _watch(self, not_before: float = 0.0) -> None:
        """Set the timer to the deadline of the oldest call; without one there is no timer."""
        if self._timer is not None:
            self._timer.cancel()
        oldest = self._oldest()
        if oldest is None:
            self._timer = None
            return
        self._timer_at = max(oldest.until, not_before)
        self._timer = asyncio.get_running_loop().call_at(self._timer_at, self._sweep)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        self._log_in_again(now)
        oldest = self._oldest()
        if oldest is None or oldest.until > now:
            self._watch()
        elif now - self._timer_at > _LATE_S and not self._graced:
            self._graced = True
            self._watch(now + _GRACE_S)
            return
        elif (more := self._patience(oldest)) > now:
            self._watch(more)
        else:
            self._timer = None
            self._fail(f"no answer within {self._deadline_s * 1000:.0f} ms", away=True)
        self._graced = False

    def _patience(self, call: Call) -> float:
        """While the server is heard, a call waits for its turn: until when."""
        heard_at = max(
            (link.heard_at for link in (*self._retiring, self._link) if link is not None),
            default=float("-inf"),
        )
        return min(heard_at + self._deadline_s, call.until + (_QUEUE_DEADLINES - 1) * self._deadline_s)

    def _log_in_again(self, now: float) -> None:
        """Where the login was changed, use it on the open connection; the answer comes in its turn."""
        link = self._link
        if link is None or now < self._look_at_login:
            return
        self._look_at_login = now + _LOGIN_EVERY_S
        login = self._dialler.login()
        if login == link.login or login.password is None:
            return
        self._look_at_login = now + _LOGIN_REFUSED_S
        answer = asyncio.get_running_loop().create_future()

        def done(answered: asyncio.Future[object]) -> None:
            # Whatever it was, the connection is still logged in as before.
            if not answered.cancelled() and answered.exception() is None and answered.result() == b"OK":
                link.login = login

        answer.add_done_callback(done)
        link.write([Call(pack(log_in(login)[0]), 1, answer, now + self._deadline_s, raw=True)])
