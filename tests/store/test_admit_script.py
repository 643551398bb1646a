"""The limiter's script and its twin in memory decide alike at every moment, and both keep every true window.

The script takes its time from the server, so here its one line that asks for it is replaced.
"""

from __future__ import annotations

import random

import pytest
from tests.servers import Server
from tests.stores import LAYOUT, PATIENT, transport_to

from cachepolicy_runtime.store.lua import script
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.store.port import LimitCheck, RateState, WindowRate
from cachepolicy_runtime.store.redis import RedisTransport

ASKS = "local time = redis.call('TIME')"
TOLD = "local time = { ARGV[#ARGV - 1], ARGV[#ARGV] }"
#: Long, for the keys expire by the server's own clock.
WINDOWS = {"minute": 60_000, "hour": 3_600_000}


def scripted(name: str) -> str:
    text = script(name).text.decode()
    assert text.count(ASKS) == 1
    return text.replace(ASKS, TOLD)


async def admit(
    transport: RedisTransport, text: str, now_us: int, checks: list[LimitCheck]
) -> tuple[bool, list[RateState]]:
    rates = [(rate, check.weight) for check in checks for rate in check.rates]
    args = [number for rate, weight in rates for number in (rate.limit, rate.window_ms, weight)]
    reply = await transport.call(
        "EVAL",
        text,
        len(rates),
        *(rate.key for rate, _ in rates),
        *args,
        now_us // 1_000_000,
        now_us % 1_000_000,
    )
    assert isinstance(reply, list)
    numbers = [number for number in reply if isinstance(number, int)]
    return numbers[0] == 1, [RateState(*numbers[at : at + 3]) for at in range(1, len(numbers), 3)]


@pytest.mark.parametrize("seed", range(6))
async def test_script_and_memory_agree_and_no_true_window_exceeds_its_limit(
    valkey: Server, seed: int
) -> None:
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret
    now = dice.randrange(10**15, 2 * 10**15)
    memory = MemoryLimitStore(lambda: now)
    limits = {name: dice.randint(1, 30) for name in WINDOWS}
    log: dict[str, list[tuple[int, int]]] = {name: [] for name in WINDOWS}
    text, transport = scripted("admit"), transport_to(valkey.url, PATIENT)
    for _ in range(250):
        now += int(dice.choice((0, 1, 10**5, 6 * 10**6, 6 * 10**7, 4 * 10**8)) * dice.random())
        weight = dice.randint(1, 3)
        asked = dice.sample(list(WINDOWS), dice.randint(1, 2))
        checks = [
            LimitCheck(
                (WindowRate(LAYOUT.limit(name, WINDOWS[name], ["ip=a"]), limits[name], WINDOWS[name]),),
                weight,
            )
            for name in asked
        ]
        admitted, states = await admit(transport, text, now, checks)
        assert (admitted, states) == (
            (expected := memory.decide(checks)).admitted,
            [state for group in expected.states for state in group],
        )
        for name in asked if admitted else ():
            log[name].append((now, weight))
        for name, window_ms in WINDOWS.items():
            assert sum(units for at, units in log[name] if at > now - window_ms * 1000) <= limits[name]
    await transport.aclose()
    assert all(log.values())


async def test_a_servers_clock_that_is_set_back_frees_nothing(valkey: Server) -> None:
    text, transport = scripted("admit"), transport_to(valkey.url, PATIENT)
    checks = [LimitCheck((WindowRate(LAYOUT.limit("l", 60_000, ["ip=a"]), 1, 60_000),))]
    assert (await admit(transport, text, 10**15, checks))[0]
    assert not (await admit(transport, text, 10**15 - 10**10, checks))[0]
    await transport.aclose()


async def test_a_window_keeps_no_more_than_its_sub_buckets_and_then_nothing(valkey: Server) -> None:
    text, transport = scripted("admit"), transport_to(valkey.url, PATIENT)
    key = LAYOUT.limit("l", 60_000, ["ip=a"])
    for step in range(100):
        await admit(
            transport, text, 10**15 + step * 6_000_000, [LimitCheck((WindowRate(key, 1000, 60_000),))]
        )
    assert await transport.call("HLEN", key) == 11
    left = await transport.call("PTTL", key)
    assert isinstance(left, int)
    assert 60_000 < left <= 66_000
    await transport.aclose()
