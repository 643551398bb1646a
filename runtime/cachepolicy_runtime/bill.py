"""What one call to a provider costs: set aside as a guess, settled when its answer is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.estimate import tokens_in
from cachepolicy_runtime.metering import Meter
from cachepolicy_runtime.ratelimit import RateLimiter, Reservation
from cachepolicy_runtime.streams import ByteStream
from cachepolicy_runtime.usage import Usage, usage_of_json


class Bill:
    """One reservation, to be settled or given back once."""

    def __init__(
        self,
        limiter: RateLimiter,
        reserved: Reservation,
        guess: Usage,
        run: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._limiter = limiter
        self._reserved = reserved
        self._guess = guess
        self._run = run

    @property
    def tokens(self) -> bool:
        return self._reserved.tokens

    async def settle(self, spent: Usage) -> None:
        await asyncio.shield(self.settle_later(spent))

    async def refund(self) -> None:
        await asyncio.shield(self._run(self._limiter.refund(self._reserved)))

    def settle_later(self, spent: Usage) -> asyncio.Task[None]:
        return self._run(self._limiter.settle(self._reserved, spent))

    def whole(self, answer: Answer) -> Usage:
        """What a whole answer cost, guessed by its length where it does not say."""
        told = usage_of_json(answer.body) if self.tokens else None
        return told or self.guess_of(None, min(self._guess.output, tokens_in(len(answer.body))))

    def guess_of(self, told: Usage | None, streamed: int) -> Usage:
        """What a call cost that did not tell it to the end: its input, and the output that came."""
        known = told or Usage()
        if not known.input + known.cached_input:
            known = replace(known, input=self._guess.input)
        return replace(known, output=max(known.output, streamed))


class MeteredStream:
    """A stream that is paid when it ends, by what it told; where it is cut off, by what came of it."""

    def __init__(self, stream: ByteStream, meter: Meter, bill: Bill) -> None:
        self._stream = stream
        self._meter = meter
        self._bill: Bill | None = bill

    @property
    def headers(self) -> Mapping[str, str]:
        return self._stream.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream.chunks():
                if passed := self._meter.feed(chunk):
                    yield passed
            if rest := self._meter.end():
                yield rest
            await self._pay_whole()
        finally:
            self._pay_part()

    async def aclose(self) -> None:
        self._pay_part()
        await self._stream.aclose()

    async def _pay_whole(self) -> None:
        bill, self._bill = self._bill, None
        if bill is not None:
            await bill.settle(self._spent(bill))

    def _pay_part(self) -> None:
        """What came of a stream that is cut off: nothing can be awaited where its caller is cancelled."""
        bill, self._bill = self._bill, None
        if bill is not None:
            bill.settle_later(self._spent(bill))

    def _spent(self, bill: Bill) -> Usage:
        told = self._meter.usage
        return told if told and self._meter.whole else bill.guess_of(told, self._meter.streamed)
