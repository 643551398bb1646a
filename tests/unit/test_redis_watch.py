"""The Redis loop: news is told once, and a server that hangs delays no other. Servers are stand-ins."""

from __future__ import annotations

import asyncio

import pytest

from cachepolicy.names import Role
from cachepolicy_operator import redis_watch
from cachepolicy_operator.queue import Key
from cachepolicy_operator.redis_admin import RedisDownError, Target
from cachepolicy_operator.redis_look import Down, DownReason, Look
from cachepolicy_operator.redis_watch import RedisWatch

A, B = Key("ns", "a"), Key("ns", "b")
GOOD = Look(run_id="1", version="redis 7.0.15", directives={"hz": "10"})
CHANGED = Look(run_id="1", version="redis 7.0.15", directives={"hz": "20"})
DOWN = Down(DownReason.NO_ANSWER, "no answer within 1 s")


class StandIn:
    """A server that shows what the test wrote into ``shows``, by URL; ``hang`` never answers."""

    shows: dict[str, Look | Down | str] = {}  # noqa: RUF012 - shared on purpose: the watch makes the instances
    looks = 0

    def __init__(self, target: Target, *, deadline: float) -> None:
        self.target = target
        self.closed = False

    async def retarget(self, target: Target) -> None:
        self.target = target

    async def close(self) -> None:
        self.closed = True

    async def look(self) -> Look:
        StandIn.looks += 1
        found = StandIn.shows[self.target.url]
        if found == "hang":
            await asyncio.Event().wait()
        if isinstance(found, Down):
            raise RedisDownError(found)
        assert isinstance(found, Look)
        return found


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_watch, "RedisServer", StandIn)
    StandIn.shows, StandIn.looks = {}, 0


def made(told: list[Key], pace: float = 0.0) -> RedisWatch:
    return RedisWatch(told.append, pace=pace, fast_pace=0.0)


async def looks(count: int) -> None:
    """Until so many more looks were made."""
    wanted = StandIn.looks + count
    while StandIn.looks < wanted:  # noqa: ASYNC110 - one turn of the loop, not a wait for time to pass
        await asyncio.sleep(0)


async def test_a_difference_is_told_once() -> None:
    told: list[Key] = []
    watch, StandIn.shows = made(told), {"redis://a": GOOD}
    await watch.server(A, Role.STATE, Target("redis://a", ()))
    watch.known(A, Role.STATE, GOOD, pending=False)
    await looks(5)
    assert told == []
    StandIn.shows["redis://a"] = CHANGED
    await looks(5)
    assert told == [A], "the queue repeats what fails; the watch does not"
    await watch.close()


async def test_a_server_that_goes_and_comes_back_is_news_twice() -> None:
    told: list[Key] = []
    watch, StandIn.shows = made(told), {"redis://a": GOOD}
    await watch.server(A, Role.STATE, Target("redis://a", ()))
    watch.known(A, Role.STATE, GOOD, pending=False)
    StandIn.shows["redis://a"] = DOWN
    await looks(3)
    StandIn.shows["redis://a"] = GOOD
    await looks(3)
    assert told == [A, A]
    await watch.close()


async def test_a_server_that_hangs_delays_no_other() -> None:
    told: list[Key] = []
    watch, StandIn.shows = made(told), {"redis://a": "hang", "redis://b": GOOD}
    await watch.server(A, Role.STATE, Target("redis://a", ()))
    await watch.server(B, Role.STATE, Target("redis://b", ()))
    watch.known(B, Role.STATE, GOOD, pending=False)
    await looks(3)
    StandIn.shows["redis://b"] = CHANGED
    await looks(3)
    assert told == [B]
    await watch.close()


async def test_a_server_of_a_policy_that_has_gone_is_left_alone() -> None:
    told: list[Key] = []
    watch, StandIn.shows = made(told), {"redis://a": GOOD}
    server = await watch.server(A, Role.CACHE, Target("redis://a", ()))
    await watch.forget(A, keep=frozenset({Role.STATE}))
    assert isinstance(server, StandIn)
    assert server.closed
    before = StandIn.looks
    for _ in range(20):
        await asyncio.sleep(0)
    assert StandIn.looks == before


async def test_a_pending_change_wakes_the_loop_from_its_long_pause() -> None:
    told: list[Key] = []
    watch, StandIn.shows = made(told, pace=3600), {"redis://a": CHANGED}
    await watch.server(A, Role.STATE, Target("redis://a", ()))
    await asyncio.sleep(0)
    watch.known(A, Role.STATE, GOOD, pending=True)
    await looks(1)
    await asyncio.sleep(0)
    assert told == [A]
    await watch.close()
