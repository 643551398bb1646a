"""The limiter's script and its twin in memory decide alike at every moment, and both keep every true window.

The script takes its time from the server, so here its one line that asks for it is replaced.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import pytest
from tests.servers import Server
from tests.stores import LAYOUT, PATIENT, transport_to

from cachepolicy_runtime.store.link import Answer
from cachepolicy_runtime.store.lua import script
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.store.port import (
    Adjustment,
    Admission,
    Check,
    Lease,
    LeaseCheck,
    LimitCheck,
    WindowRate,
)
from cachepolicy_runtime.store.redis import RedisTransport
from cachepolicy_runtime.store.redis_limits import RedisLimitStore
from cachepolicy_runtime.store.transport import Transport

ASKS = "local time = redis.call('TIME')"
TOLD = "local time = { table.remove(ARGV, #ARGV - 1), table.remove(ARGV) }"
SECOND = 1_000_000
#: Long, for the keys expire by the server's own clock.
MINUTE, HOUR = 60_000, 3_600_000


class Clock:
    def __init__(self, now: int = 10**15) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


class Timed:
    """A transport whose script is told the time."""

    def __init__(self, transport: RedisTransport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        text = script("limits").text.decode()
        assert text.count(ASKS) == 1
        self._text = text.replace(ASKS, TOLD)

    def gather(self, collect: Callable[[], None]) -> None:
        self._transport.gather(collect)

    def script_into(self, answer: Answer, name: str, keys: Sequence[str], args: Sequence[str]) -> None:
        seconds, micros = divmod(self._clock.now, SECOND)
        reply = self._transport.call_nowait("EVAL", self._text, len(keys), *keys, *args, seconds, micros)
        reply.add_done_callback(lambda done: answer.set_result(done.result()))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def transport(valkey: Server) -> AsyncIterator[RedisTransport]:
    valkey.flush()
    transport = transport_to(valkey.url, PATIENT)
    yield transport
    await transport.aclose()


@pytest.fixture
def store(transport: RedisTransport, clock: Clock) -> RedisLimitStore:
    return RedisLimitStore(cast(Transport, Timed(transport, clock)))


def rate(name: str, limit: int, window_ms: int = MINUTE, *, log: bool = False) -> WindowRate:
    key = LAYOUT.limit_log if log else LAYOUT.limit
    return WindowRate(key(name, window_ms, ["ip=a"]), limit, window_ms, log)


def check(
    name: str, limit: int, window_ms: int = MINUTE, *, log: bool = False, weight: int = 1
) -> LimitCheck:
    return LimitCheck((rate(name, limit, window_ms, log=log),), weight)


# --- script and memory


class Twins:
    """Asks the script and the memory the same, and remembers what they admitted."""

    def __init__(self, store: RedisLimitStore, clock: Clock, dice: random.Random) -> None:
        self._store = store
        self._clock = clock
        self._memory = MemoryLimitStore(clock)
        self._dice = dice
        self.counted: list[Adjustment] = []
        self.log: dict[str, list[tuple[int, int]]] = {}

    async def admit(self, checks: Sequence[Check], shadows: Sequence[Check], lease: str) -> Admission:
        refund = self._dice.sample(self.counted, min(len(self.counted), self._dice.randint(0, 1)))
        refund = [Adjustment(one.rate, one.at_us, -one.units) for one in refund]
        answer = await self._store.admit(checks, shadows=shadows, lease=lease, refund=refund)
        expected = self._memory.decide(checks, shadows=shadows, lease=lease, refund=refund)
        assert (answer.admitted, answer.states, answer.at_us) == expected[:3]
        assert [shadow[:2] for shadow in answer.shadows] == [shadow[:2] for shadow in expected.shadows]
        if answer.admitted:
            self._remember(
                [*checks, *(s for s, a in zip(shadows, answer.shadows, strict=True) if a.admitted)]
            )
        else:
            self._give_back(refund)
        return answer

    async def correct(self) -> None:
        """Change what some request was counted with."""
        if self.counted:
            old = self._dice.choice(self.counted)
            units = -old.units if old.rate.log else self._dice.randint(-old.units, 3)
            await self._store.adjust([Adjustment(old.rate, old.at_us, units)])
            self._memory.correct([Adjustment(old.rate, old.at_us, units)])
            if units <= 0:
                self._give_back([Adjustment(old.rate, old.at_us, units)])

    async def release(self, leases: Sequence[Lease]) -> None:
        self._store.release(leases)
        self._memory.release(leases)

    async def renew(self, leases: Sequence[Lease]) -> None:
        await self._store.renew(leases, MINUTE)
        await self._memory.renew(leases, MINUTE)

    def _remember(self, checks: Sequence[Check]) -> None:
        for one in checks:
            for counted in one.rates if isinstance(one, LimitCheck) else ():
                assert isinstance(one, LimitCheck)
                self.counted.append(Adjustment(counted, self._clock.now, one.weight))
                self.log.setdefault(counted.key, []).append((self._clock.now, one.weight))

    def _give_back(self, adjustments: Sequence[Adjustment]) -> None:
        """What may be given back in part is forgotten as a whole: the check below gets no stricter by it."""
        for rate, at_us, units in adjustments:
            old = next(one for one in self.counted if (one.rate, one.at_us) == (rate, at_us))
            self.counted.remove(old)
            if units:
                self.log[rate.key].remove((at_us, old.units))

    def within(self, key: str, window_ms: int) -> int:
        since = self._clock.now - window_ms * 1000
        return sum(units for at, units in self.log.get(key, ()) if at > since)


@pytest.mark.parametrize("seed", range(8))
async def test_script_and_memory_agree_and_no_true_window_exceeds_its_limit(
    store: RedisLimitStore, clock: Clock, seed: int
) -> None:
    """Windows, logs, leases, shadows, refunds and corrections, in any mixture."""
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    clock.now = dice.randrange(10**15, 2 * 10**15)
    twins = Twins(store, clock, dice)
    limits = {name: dice.randint(1, 30) for name in ("minute", "hour", "log")}
    leases: list[Lease] = []
    slots = LeaseCheck(LAYOUT.limit_leases("slots", ["ip=a"]), 2, MINUTE)
    for step in range(300):
        clock.now += int(dice.choice((0, 1, 10**5, 6 * 10**6, 6 * 10**7, 4 * 10**8)) * dice.random())
        kinds: list[Check] = [
            check("minute", limits["minute"], weight=dice.randint(0, 3)),
            LimitCheck((rate("hour", limits["hour"], HOUR), rate("hour", 2 * limits["hour"], 2 * HOUR))),
            check("log", limits["log"], log=True),
            slots,
        ]
        asked = dice.sample(kinds, dice.randint(0, 4))
        shadows = dice.sample([check("beside", 3), check("beside", 3, HOUR, log=True)], dice.randint(0, 2))
        answer = await twins.admit(asked, shadows, str(step))
        if answer.admitted and slots in asked:
            leases.append(Lease(slots.key, str(step)))
        if leases and dice.random() < 0.3:
            await dice.choice((twins.release, twins.renew))([leases.pop()])
        if dice.random() < 0.1:
            await twins.correct()
        for name, window_ms in (("minute", MINUTE), ("hour", HOUR)):
            assert twins.within(rate(name, 1, window_ms).key, window_ms) <= limits[name]
        assert twins.within(rate("log", 1, log=True).key, MINUTE) <= limits["log"]
    assert {"minute", "hour", "log", "beside"} <= {key.split(":")[2] for key in twins.log}


# --- clocks


@pytest.mark.parametrize("log", [False, True])
async def test_a_servers_clock_that_is_set_back_frees_nothing_and_blocks_no_longer_than_a_window(
    store: RedisLimitStore, clock: Clock, log: bool
) -> None:
    asked = [check("l", 2, log=log)]
    assert (await store.admit(asked)).admitted
    assert (await store.admit(asked)).admitted
    clock.now -= 3 * HOUR * 1000
    refused = await store.admit(asked)
    assert not refused.admitted
    assert MINUTE <= refused.states[0][0].retry_ms <= MINUTE * 1.1
    clock.now += refused.states[0][0].retry_ms * 1000 - 1000
    assert not (await store.admit(asked)).admitted
    clock.now += 1000
    assert (await store.admit(asked)).admitted


@pytest.mark.parametrize("log", [False, True])
async def test_a_small_step_back_frees_nothing_early(store: RedisLimitStore, clock: Clock, log: bool) -> None:
    start = clock.now
    asked = [check("l", 1, log=log)]
    assert (await store.admit(asked)).admitted
    clock.now = start - 20 * SECOND
    assert not (await store.admit(asked)).admitted
    clock.now = start + 59 * SECOND
    assert not (await store.admit(asked)).admitted
    clock.now = start + 66 * SECOND
    assert (await store.admit(asked)).admitted


async def test_a_lease_ends_by_itself_also_after_a_clock_was_set_back(
    store: RedisLimitStore, clock: Clock
) -> None:
    slots = [LeaseCheck(LAYOUT.limit_leases("slots", ["ip=a"]), 1, MINUTE)]
    assert (await store.admit(slots, lease="dead")).admitted
    clock.now -= HOUR * 1000
    assert not (await store.admit(slots, lease="a")).admitted
    clock.now += MINUTE * 1000
    assert (await store.admit(slots, lease="b")).admitted


# --- what is stored


async def test_a_window_keeps_no_more_than_its_sub_buckets_and_then_nothing(
    store: RedisLimitStore, clock: Clock, transport: RedisTransport
) -> None:
    for _ in range(100):
        clock.now += 6 * SECOND
        await store.admit([check("l", 1000)])
    stored = await transport.call("GET", rate("l", 1000).key)
    assert isinstance(stored, bytes)
    newest, used, *counts = map(int, stored.split())
    assert newest == clock.now // (6 * SECOND)
    assert (used, counts) == (11, [1] * 11)
    left = await transport.call("PTTL", rate("l", 1000).key)
    assert isinstance(left, int)
    assert 60_000 < left <= 66_000


async def test_a_log_keeps_what_is_in_the_window_and_then_nothing(
    store: RedisLimitStore, clock: Clock, transport: RedisTransport
) -> None:
    for _ in range(100):
        clock.now += SECOND
        await store.admit([check("l", 1000, log=True)])
    assert await transport.call("LLEN", rate("l", 1, log=True).key) == 60
    left = await transport.call("PTTL", rate("l", 1, log=True).key)
    assert isinstance(left, int)
    assert 59_000 < left <= 60_000


@pytest.mark.parametrize("command", [("SET", "nonsense"), ("SADD", "nonsense")])
async def test_what_is_no_window_counts_as_an_empty_one(
    store: RedisLimitStore, transport: RedisTransport, command: tuple[str, str]
) -> None:
    """One key that somebody else wrote must not fail the requests that leave in the same call."""
    await transport.call(command[0], rate("l", 1).key, command[1])
    assert (await store.admit([check("l", 1)])).admitted
    assert not (await store.admit([check("l", 1)])).admitted


# --- batches


async def test_callers_of_one_turn_share_a_call_and_are_decided_in_their_order(
    store: RedisLimitStore, transport: RedisTransport
) -> None:
    """Each is all or nothing by itself: who is refused by one limit burns no other, of nobody."""
    asked = [[check("wide", 5)], [check("wide", 5), check("none", 1, weight=2)], [check("narrow", 1)]] * 4
    await transport.call("CONFIG", "RESETSTAT")
    answers = await asyncio.gather(*(store.admit(checks) for checks in asked))
    assert [answer.admitted for answer in answers] == [True, False, True] + [True, False, False] * 3
    assert answers[-3].states[0][0].remaining == 1
    stats = await transport.call("INFO", "commandstats")
    assert isinstance(stats, bytes)
    assert b"cmdstat_eval:calls=1," in stats


async def test_a_batch_is_split_so_that_no_call_holds_up_the_server(
    store: RedisLimitStore, transport: RedisTransport
) -> None:
    await transport.call("CONFIG", "RESETSTAT")
    answers = await asyncio.gather(*(store.admit([check(f"l{n}", 1)]) for n in range(200)))
    assert all(answer.admitted for answer in answers)
    stats = await transport.call("INFO", "commandstats")
    assert isinstance(stats, bytes)
    assert b"cmdstat_eval:calls=4," in stats


async def test_a_caller_that_left_before_anything_was_sent_is_not_counted(store: RedisLimitStore) -> None:
    left = store.admit([check("l", 1)])
    left.cancel()
    assert (await store.admit([check("l", 1)])).admitted
