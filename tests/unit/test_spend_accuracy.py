"""Tokens against an exact account: never more than the limit in any window, and no less than there is room for.

Calls overlap, cost less than they set aside or nothing, and end whenever they do, seconds or windows later.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from cachepolicy import Identity, KeyLayout
from cachepolicy.limits import RateLimit
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.estimate import estimate
from cachepolicy_runtime.keys import UpstreamRequest
from cachepolicy_runtime.ratelimit import RateLimiter, compile_limits
from cachepolicy_runtime.spend import LimitedError, Spending, SpendView
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore

LIMIT, WINDOW_S = 500, 10
TOKENS = RateLimit.model_validate(
    {"by": [{"type": "Tenant"}], "unit": "Tokens", "rates": [{"limit": LIMIT, "window": f"{WINDOW_S}s"}]}
)
SECOND = 1_000_000
#: What was used comes back at most a tenth of the window late.
LATE = 1.1


@dataclass
class Counted:
    """One call in the exact account: when it was admitted, and what it counts for now."""

    at_us: int
    units: int
    answer: asyncio.Future[Answer] = field(repr=False)
    task: asyncio.Task[Any] = field(repr=False)


class Account:
    """Calls through the spending phase, and beside it every one of them with its time."""

    def __init__(self) -> None:
        self.now_us = 10**12
        store = MemoryLimitStore(lambda: self.now_us)
        limiter = RateLimiter(store, store, lambda: 1, now_us=lambda: self.now_us)
        view = SpendView(compile_limits({"tokens": TOKENS}), KeyLayout("shop/core"), limiter)
        self.spending = Spending(lambda: view)
        self.counted: list[Counted] = []

    def used(self, seconds: float) -> int:
        """Units of the calls that were admitted within the last ``seconds``."""
        since = self.now_us - seconds * SECOND
        return sum(call.units for call in self.counted if call.at_us > since)

    async def begin(self, bound: int) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": bound}
        request = UpstreamRequest("https://provider/v1/chat/completions", body)
        guess = estimate(body)
        units = guess.input + guess.output
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        asked = asyncio.Event()

        async def send(_: UpstreamRequest) -> Answer:
            asked.set()
            return await answer

        task = asyncio.create_task(self.spending.call(request, send, identity=Identity("acme")))
        waiting = asyncio.create_task(asked.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            assert isinstance(task.exception(), LimitedError)
            assert self.used(LATE * WINDOW_S) + units > LIMIT, "refused although there was room"
            return
        self.counted.append(Counted(self.now_us, units, answer, task))

    async def end(self, which: int, share: float) -> None:
        """The provider answers; the call cost this share of what it set aside, or nothing because it failed."""
        under_way = [call for call in self.counted if not call.task.done()]
        if not under_way:
            return
        call = under_way[which % len(under_way)]
        call.units = int(call.units * share)
        usage = {"prompt_tokens": call.units, "completion_tokens": 0}
        call.answer.set_result(Answer(200 if share else 500, orjson.dumps({"usage": usage})))
        await call.task

    async def close(self) -> None:
        for call in self.counted:
            call.task.cancel()
        await asyncio.gather(*(call.task for call in self.counted), return_exceptions=True)
        await self.spending.aclose()


PASS = st.tuples(st.just("pass"), st.integers(1, 2 * WINDOW_S * SECOND), st.just(0.0))
BEGIN = st.tuples(st.just("begin"), st.integers(1, LIMIT - 20), st.just(0.0))
END = st.tuples(st.just("end"), st.integers(0, 10), st.sampled_from([0.0, 0.1, 0.5, 1.0]))


@settings(max_examples=200, deadline=None)
@given(st.lists(PASS | BEGIN | BEGIN | END, max_size=40))
def test_no_window_ever_holds_more_than_the_limit_and_room_is_used(
    events: list[tuple[str, int, float]],
) -> None:
    async def scene() -> None:
        account = Account()
        for what, number, share in events:
            if what == "pass":
                account.now_us += number
            elif what == "begin":
                await account.begin(number)
            else:
                await account.end(number, share)
            assert account.used(WINDOW_S) <= LIMIT
        await account.close()

    asyncio.run(scene())
