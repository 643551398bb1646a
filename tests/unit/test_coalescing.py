"""Identical requests at the same time: one call, over tasks and over replicas, and nobody waits in a row."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.caches import (
    REQUEST,
    AwayStore,
    HeldProvider,
    Policy,
    Provider,
    SharedLeases,
    SpyStore,
    ask,
    settled,
)

from cachepolicy import Duration, Identity
from cachepolicy.response_cache import Coalesce, ResponseCache
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.coalescing import FAILED_MS, UNCACHEABLE_MS
from cachepolicy_runtime.responses import Outcome, Responses
from cachepolicy_runtime.store.errors import StoreUnavailable
from cachepolicy_runtime.store.leases import Claim

RULES = ResponseCache(coalesce=Coalesce(), jitter_percent=0)


class Fleet:
    """Replicas over one store."""

    def __init__(self, count: int = 1, rules: ResponseCache = RULES) -> None:
        self.store = SpyStore()
        self.leases = SharedLeases(self.store)
        self.policies = [Policy(store=self.store, leases=self.leases, responses=rules) for _ in range(count)]
        self.caches = [Responses(policy.view) for policy in self.policies]

    def ask_all(self, call: Provider, each: int = 1) -> list[asyncio.Task[Outcome[Answer]]]:
        return [asyncio.create_task(ask(cache, call)) for _ in range(each) for cache in self.caches]


async def outcomes(tasks: Sequence[asyncio.Task[Outcome[Answer]]]) -> list[Outcome[Answer]]:
    return list(await asyncio.gather(*tasks))


async def test_a_hundred_requests_of_one_process_are_one_call() -> None:
    """All get the same bytes; one is a miss, the others say that they were collapsed (RFC 9211)."""
    fleet, call = Fleet(), HeldProvider()
    tasks = fleet.ask_all(call, 100)
    await call.asked.wait()
    call.go.set()
    got = await outcomes(tasks)
    assert call.calls == 1
    assert len({outcome.answer.body for outcome in got}) == 1
    told = [outcome.cache_status for outcome in got]
    assert told.count("CachePolicy; fwd=uri-miss; fwd-status=200; stored") == 1
    assert told.count("CachePolicy; fwd=uri-miss; collapsed") == 99
    assert fleet.caches[0].counts.coalesced == 99
    assert fleet.caches[0].counts.of("openai", "gpt-x").misses == 1


async def test_over_replicas_it_is_still_one_call() -> None:
    """The lease of the one that asks keeps the others waiting, and they are woken when it is released."""
    fleet, call = Fleet(4), HeldProvider()
    tasks = fleet.ask_all(call, 25)
    await call.asked.wait()
    await settled()
    assert call.calls == 1
    call.go.set()
    got = await outcomes(tasks)
    assert call.calls == 1
    assert sum(outcome.hit for outcome in got) == 99
    assert fleet.leases.holders == {}


async def test_an_answer_that_came_between_the_look_and_the_claim_is_used() -> None:
    """Exactly one call means also none for those who looked a moment too early."""
    fleet, call = Fleet(2), Provider()
    await ask(fleet.caches[0], call)

    class LateStore(SpyStore):
        """Shows nothing at the first look."""

        async def get(self, name: str) -> bytes | None:
            return None

    fleet.policies[1].store = LateStore()
    got = await ask(fleet.caches[1], call)
    await settled()
    assert (got.hit, call.calls) == (True, 1)
    assert fleet.leases.holders == {}


async def test_what_the_call_raises_is_its_callers_alone() -> None:
    """The others ask by themselves, all at once, and for a moment nobody waits."""
    fleet = Fleet()
    errors = iter([ConnectionError("mine")])
    call = HeldProvider()

    async def first_fails() -> Answer:
        answer = await call()
        if error := next(errors, None):
            raise error
        return answer

    tasks = [asyncio.create_task(ask(cache, first_fails)) for _ in range(5) for cache in fleet.caches]
    await call.asked.wait()
    await settled()
    assert call.calls == 1
    call.go.set()
    got = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(item) for item in got].count(ConnectionError) == 1
    await settled()
    assert call.calls == 5
    assert list(fleet.leases.apart.values()) == [FAILED_MS]


async def test_an_answer_that_cannot_be_stored_holds_nobody_up() -> None:
    """Those who waited for it ask at once and together, and the next ones do not wait at all."""
    fleet, call = Fleet(2), HeldProvider(finish_reason="length")
    tasks = fleet.ask_all(call, 10)
    await call.asked.wait()
    await settled()
    assert call.calls == 1
    call.go.set()
    await outcomes(tasks)
    assert call.calls == 20
    assert list(fleet.leases.apart.values()) == [UNCACHEABLE_MS]
    call.go.clear()
    late = fleet.ask_all(call, 3)
    await settled()
    assert call.calls == 26
    call.go.set()
    await outcomes(late)


async def test_when_the_asking_caller_goes_away_one_other_takes_its_place() -> None:
    """In the same process."""
    fleet, call = Fleet(), HeldProvider()
    tasks = fleet.ask_all(call, 5)
    await call.asked.wait()
    tasks[0].cancel()
    await settled()
    assert call.calls == 2
    call.go.set()
    got = await outcomes(tasks[1:])
    assert sum(outcome.hit for outcome in got) == 3


async def test_who_goes_away_while_it_claims_the_lease_leaves_it_to_others() -> None:
    """The store has given the lease out, and the answer reaches nobody."""
    fleet, call = Fleet(2), HeldProvider()
    claim, sent = fleet.leases.claim, asyncio.Event()

    async def slow(lease: str, nonce: str, ttl_ms: int, entry: str) -> Claim:
        got = await claim(lease, nonce, ttl_ms, entry)
        sent.set()
        await asyncio.Event().wait()
        return got

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet.leases, "claim", slow)
        gone = asyncio.create_task(ask(fleet.caches[0], call))
        await sent.wait()
    assert fleet.leases.holders
    gone.cancel()
    await settled()
    assert fleet.leases.holders == {}
    other = asyncio.create_task(ask(fleet.caches[1], call))
    await settled()
    assert call.calls == 1
    call.go.set()
    await other


async def test_when_the_asking_replica_dies_one_other_takes_its_place() -> None:
    """Its lease ends; of the others exactly one gets it."""
    fleet, dying, call = Fleet(4), HeldProvider(), HeldProvider()
    dead = asyncio.create_task(ask(fleet.caches[0], dying))
    await dying.asked.wait()
    tasks = [asyncio.create_task(ask(cache, call)) for cache in fleet.caches[1:]]
    await settled()
    assert call.calls == 0
    fleet.leases.lapse()
    await settled()
    assert call.calls == 1
    call.go.set()
    await outcomes(tasks)
    assert call.calls == 1
    dead.cancel()


async def test_who_has_waited_long_enough_asks_by_himself() -> None:
    """And says so."""
    rules = RULES.model_copy(update={"coalesce": Coalesce(wait_max=Duration(1))})
    fleet, call = Fleet(2, rules), HeldProvider()
    tasks = fleet.ask_all(call)
    async with asyncio.timeout(10):
        while call.calls < 2:  # noqa: ASYNC110 - one millisecond has to pass
            await asyncio.sleep(0)
    call.go.set()
    told = [outcome.cache_status for outcome in await outcomes(tasks)]
    assert "CachePolicy; fwd=uri-miss; detail=coalesce-timeout; fwd-status=200; stored" in told


@pytest.mark.parametrize("cache_control", ["no-cache", "no-store"])
async def test_who_wants_his_own_answer_waits_for_nobody(cache_control: str) -> None:
    """And keeps nobody waiting: his answer may not be for them."""
    fleet, call = Fleet(), HeldProvider()
    request = replace(REQUEST, cache_control=cache_control)
    tasks = [asyncio.create_task(ask(fleet.caches[0], call, request)) for _ in range(3)]
    await settled()
    assert call.calls == 3
    call.go.set()
    await outcomes(tasks)


async def test_only_the_same_question_of_the_same_tenant_waits() -> None:
    fleet, call = Fleet(), HeldProvider()
    other = replace(REQUEST, body={**REQUEST.body, "temperature": 1})
    tasks = [
        asyncio.create_task(ask(fleet.caches[0], call)),
        asyncio.create_task(ask(fleet.caches[0], call, other)),
        asyncio.create_task(ask(fleet.caches[0], call, identity=Identity("globex"))),
    ]
    await settled()
    assert call.calls == 3
    call.go.set()
    await outcomes(tasks)


@pytest.mark.parametrize("replicas", [1, 2])
async def test_who_comes_after_a_purge_does_not_get_an_answer_from_before_it(replicas: int) -> None:
    """It does not wait for the call that began before either, in this process or another."""
    fleet, call = Fleet(replicas), HeldProvider()
    before = asyncio.create_task(ask(fleet.caches[0], call))
    await call.asked.wait()
    for policy in fleet.policies:
        policy.stamps = {"all": "2"}
    after = asyncio.create_task(ask(fleet.caches[-1], call))
    await settled()
    assert call.calls == 2
    call.go.set()
    first, second = await outcomes([before, after])
    assert first.answer.body != second.answer.body


async def test_while_the_store_is_away_a_process_still_asks_once() -> None:
    class AwayLeases(SharedLeases):
        async def claim(self, lease: str, nonce: str, ttl_ms: int, entry: str) -> Claim:
            raise StoreUnavailable("cache", "connection refused")

    fleet, call = Fleet(), HeldProvider()
    fleet.policies[0].leases = AwayLeases(fleet.store)
    fleet.policies[0].store = AwayStore()
    tasks = fleet.ask_all(call, 10)
    await call.asked.wait()
    call.go.set()
    got = await outcomes(tasks)
    assert call.calls == 1
    assert sum(outcome.hit for outcome in got) == 9


async def test_in_memory_one_process_asks_once() -> None:
    """A Core without Redis."""
    policy, call = Policy(responses=RULES), HeldProvider()
    policy.store = policy.fallback
    cache = Responses(policy.view)
    tasks = [asyncio.create_task(ask(cache, call)) for _ in range(10)]
    await call.asked.wait()
    call.go.set()
    await outcomes(tasks)
    assert call.calls == 1
    await cache.aclose()


async def test_a_stream_in_the_place_of_an_answer_is_shared_with_nobody() -> None:
    """Whatever the call returns that is no answer is its caller's."""
    fleet = Fleet()

    async def call() -> object:
        await asyncio.sleep(0)
        return object()

    got = await asyncio.gather(
        *(
            fleet.caches[0].get_or_call(REQUEST, call, provider="openai", identity=Identity("acme"))
            for _ in range(3)
        )
    )
    assert len({outcome.answer for outcome in got}) == 3


async def test_a_thousand_requests_for_a_hundred_answers_are_a_hundred_calls() -> None:
    fleet, call = Fleet(2), Provider()
    requests = [replace(REQUEST, body={**REQUEST.body, "seed": number}) for number in range(100)]
    await asyncio.gather(
        *(ask(cache, call, request) for _ in range(5) for request in requests for cache in fleet.caches)
    )
    assert call.calls == 100


async def test_closing_ends_what_goes_on_behind() -> None:
    """Also for one that waits on another replica."""
    fleet, call = Fleet(2), HeldProvider()
    tasks = fleet.ask_all(call)
    await settled()
    call.go.set()
    await outcomes(tasks)
    for cache in fleet.caches:
        await cache.aclose()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others
