"""The second phase of limits: what a call to a provider costs, in tokens or by model.

It stands between the cache and the provider, so that a hit spends nothing::

    reserve (by estimate) ─▶ provider ─▶ settle (by the answer's usage)
       └─ no room: LimitedError         └─ no answer: refund

All limits of a call are decided in one step, as in admission. A refusal gives back what admission counted. An answer is
settled before it is given, so that the caller's next request finds the truth; only what is cut off is settled behind
its back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.asgi.types import Scope
from cachepolicy_runtime.bill import Bill, MeteredStream
from cachepolicy_runtime.caller import current_scope
from cachepolicy_runtime.estimate import estimate
from cachepolicy_runtime.keys import UpstreamRequest
from cachepolicy_runtime.metering import Meter, asking_for_usage, usage_asked
from cachepolicy_runtime.ratelimit import (
    ADMISSION,
    Admitted,
    Decision,
    Limits,
    RateLimiter,
    Subject,
)
from cachepolicy_runtime.streams import ByteStream

#: Only these streams tell no usage of their own accord, and only these know how to be asked.
_TELL_WHEN_ASKED = ("/chat/completions", "/completions")
_EMBEDDINGS = "/embeddings"
#: Where a request's scope remembers these; only the server and the app can write there.
_SPENT = "cachepolicy.spent"
_ANSWERED = "cachepolicy.answered"


class LimitedError(Exception):
    """A limit has no room for this call, or the store is away and it says Deny; the provider was not asked.

    ``decision`` holds every window that was asked; ``ratelimit_answer`` makes headers and a body of it.
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__("a rate limit has no room for this call")
        self.decision = decision


#: Sends a request as it is given, and returns the whole answer or a stream.
Call = Callable[[UpstreamRequest], Awaitable[Answer | ByteStream]]


@dataclass(frozen=True, slots=True)
class SpendView:
    """One moment of the policy: a call uses it to its end."""

    limits: Limits
    keys: KeyLayout
    limiter: RateLimiter


class _Spender:
    """Who spends: a request that is being served, or an identity without one.

    What limits by path, address or header look at comes from the request, where there is one; it also remembers
    what admission counted, which a refusal gives back as long as nothing was answered.
    """

    def __init__(self, scope: Scope | None, identity: Identity | None) -> None:
        self._scope = scope
        admitted = scope.get(ADMISSION) if scope is not None else None
        self._admitted = admitted if isinstance(admitted, Admitted) else None
        self._identity = identity

    @property
    def admitted(self) -> Admitted | None:
        over = self._scope is not None and self._scope.get(_ANSWERED)
        return None if over else self._admitted

    def subject(self, model: str | None) -> Subject:
        known = self._admitted.subject if self._admitted is not None else Subject("POST", "")
        return known._replace(identity=self._identity, model=model)

    def told(self, decision: Decision) -> None:
        """Remember what was decided, for :func:`answered`."""
        if self._scope is not None:
            self._scope[_SPENT] = decision


def answered(scope: Scope | None) -> Decision | None:
    """To be called when the answer to a request is known: what was spent on it from here on (refreshing a stale
    entry) is no reason to take its admission back. Returns the decision over what was spent, if anything was."""
    if scope is None:
        return None
    scope[_ANSWERED] = True
    decision = scope.get(_SPENT)
    return decision if isinstance(decision, Decision) else None


class Spending:
    """See the module. One per process."""

    def __init__(self, view: Callable[[], SpendView]) -> None:
        self._view = view
        self._settling: set[asyncio.Task[None]] = set()

    async def call(
        self, request: UpstreamRequest, call: Call, *, identity: Identity | None
    ) -> Answer | ByteStream:
        """What ``call`` returns, paid for by ``identity``; a stream is paid when it ends or is closed.

        ``call`` gets the request to send, which may ask for one thing more: the usage of a stream.
        Raises :class:`LimitedError`; exceptions of ``call`` pass through.
        """
        view = self._view()
        if not view.limits.spends:
            return await call(request)
        spender = _Spender(current_scope(), identity)
        guess = estimate(request.body, generates=not _path(request).endswith(_EMBEDDINGS))
        reserved = await view.limiter.reserve(
            view.limits, view.keys, spender.subject(request.model), guess, spender.admitted
        )
        if isinstance(reserved, Decision):
            raise LimitedError(reserved)
        spender.told(reserved.decision)
        return await self._paid(request, call, Bill(view.limiter, reserved, guess, self._in_background))

    async def aclose(self) -> None:
        """Wait for the settlements under way."""
        while self._settling:
            await asyncio.gather(*self._settling, return_exceptions=True)

    async def _paid(self, request: UpstreamRequest, call: Call, bill: Bill) -> Answer | ByteStream:
        asking = bill.tokens and _has_to_be_asked(request)
        try:
            answer = await call(replace(request, body=asking_for_usage(request.body)) if asking else request)
            if asking and _knows_no_options(answer):
                asking, answer = False, await call(request)
        except asyncio.CancelledError:
            bill.settle_later(bill.guess_of(None, 0))  # the provider has read the input by now
            raise
        except Exception:
            await bill.refund()
            raise
        if not isinstance(answer, Answer):
            return MeteredStream(answer, Meter(hide=asking), bill)
        if answer.status >= 400:
            await bill.refund()
        else:
            await bill.settle(bill.whole(answer))
        return answer

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Whoever waits for it may be cancelled, and it goes on."""
        task = asyncio.get_running_loop().create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return task


def _has_to_be_asked(request: UpstreamRequest) -> bool:
    """Whether this is a stream that tells its usage only when asked, and was not asked by its caller."""
    return request.streaming and _path(request).endswith(_TELL_WHEN_ASKED) and not usage_asked(request.body)


def _knows_no_options(answer: Answer | ByteStream) -> bool:
    """A provider that refuses the field: older ones, and some that copy the API."""
    return isinstance(answer, Answer) and answer.status in (400, 422) and b"stream_options" in answer.body


def _path(request: UpstreamRequest) -> str:
    return urlsplit(request.url).path
