"""The response cache: what is served, what is stored, and what never is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.caches import (
    ALICE,
    LAYOUT,
    REQUEST,
    AwayStore,
    Clock,
    Policy,
    Provider,
    SpyStore,
    answer,
    ask,
    chat_body,
)

from cachepolicy import Duration, Identity
from cachepolicy.purge import Purge
from cachepolicy.response_cache import ModelCache, ProviderCache, ResponseCache
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.keys import CacheSecret
from cachepolicy_runtime.responses import Responses


async def test_the_second_identical_request_is_a_hit_with_the_same_bytes() -> None:
    """Cache-Status and Age say so; the provider is called once."""
    clock, call = Clock(), Provider()
    cache = Responses(Policy().view, now_ms=clock)
    first = await ask(cache, call)
    clock.ms += 2500
    second = await ask(cache, call)
    assert (first.hit, second.hit, call.calls) == (False, True, 1)
    assert second.answer.body == first.answer.body
    assert first.headers == {"Cache-Status": "CachePolicy; fwd=uri-miss; fwd-status=200; stored"}
    assert second.headers == {"Cache-Status": "CachePolicy; hit; ttl=597", "Age": "2"}
    counts = cache.counts.as_dict()
    one_of_two = {"hits": 1, "misses": 1, "ratio": 0.5}
    assert one_of_two.items() <= counts.items()
    assert counts["providers"] == {"openai": {**one_of_two, "models": {"gpt-x": one_of_two}}}
    assert (counts["stored"], counts["bypassed"], counts["notStored"]) == (1, {}, {})


async def test_users_of_one_tenant_share_and_tenants_never_do() -> None:
    """The tenant comes from authentication and is part of the key."""
    call = Provider()
    cache = Responses(Policy().view)
    await ask(cache, call, identity=Identity("acme", "alice"))
    assert (await ask(cache, call, identity=Identity("acme", "bob"))).hit
    assert not (await ask(cache, call, identity=Identity("other", "alice"))).hit
    assert not (await ask(cache, call, identity=Identity("acme}:r", "alice"))).hit


CLAIMS = ("tenant", "X-Tenant", "user", "metadata", "cache", "cache_key", "namespace", "organization")


@pytest.mark.parametrize("name", CLAIMS)
async def test_nothing_that_a_client_sends_chooses_the_tenant(name: str) -> None:
    """No field, header or query reaches another tenant's answers, and none leaves one's own key space."""
    store, call = SpyStore(), Provider()
    cache = Responses(Policy(store=store).view)
    await ask(cache, call, identity=Identity("victim"))
    claims = [
        replace(REQUEST, body={**REQUEST.body, name: "victim"}),
        replace(REQUEST, headers={name: "victim"}),
        replace(REQUEST, url=f"{REQUEST.url}?{name}=victim"),
    ]
    for claim in claims:
        got = await ask(cache, call, claim, identity=Identity("attacker"))
        assert got.answer.body != answer(chat_body("Hello 1.")).body
    prefixes = {key.split(":r:")[0] for key in store.items}
    assert prefixes == {f"{LAYOUT.prefix}:c:{{victim}}", f"{LAYOUT.prefix}:c:{{attacker}}"}


async def test_without_identity_nothing_is_read_or_stored() -> None:
    """An unauthenticated request has no tenant."""
    store, call = SpyStore(), Provider()
    cache = Responses(Policy(store=store).view)
    outcomes = [await ask(cache, call, identity=None) for _ in range(2)]
    assert call.calls == 2
    assert store.items == {}
    assert outcomes[1].cache_status == "CachePolicy; fwd=bypass; detail=no-identity"
    assert cache.counts.bypassed == {"no-identity": 2}


async def test_a_stream_is_passed_through_untouched_and_never_stored() -> None:
    """The very object that the call returned, unread."""

    async def chunks() -> AsyncGenerator[bytes]:
        yield b"data: 1\n\n"

    stream, store = chunks(), SpyStore()
    cache = Responses(Policy(store=store).view)

    async def call() -> AsyncGenerator[bytes]:
        return stream

    request = replace(REQUEST, body={**REQUEST.body, "stream": True})
    got = await cache.get_or_call(request, call, provider="openai", identity=ALICE)
    assert got.answer is stream
    assert got.cache_status == "CachePolicy; fwd=bypass; detail=stream"
    assert store.items == {}
    await stream.aclose()


@pytest.mark.parametrize("name", ["conversation", "background"])
async def test_a_request_that_changes_the_providers_state_is_not_cached(name: str) -> None:
    """A hit would not add to the conversation."""
    call = Provider()
    cache = Responses(Policy().view)
    for _ in range(2):
        await ask(cache, call, replace(REQUEST, body={**REQUEST.body, name: "c-1"}))
    assert call.calls == 2


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (Provider(status=500), "status"),
        (Provider(finish_reason="length"), "finish-reason"),
        (Provider(message={"content": "", "tool_calls": [{}]}), "tool-calls"),
    ],
    ids=["error", "cut off", "tool call"],
)
async def test_an_incomplete_answer_is_returned_and_not_stored(call: Provider, why: str) -> None:
    """The next caller asks the provider again."""
    cache = Responses(Policy().view)
    outcomes = [await ask(cache, call) for _ in range(2)]
    assert call.calls == 2
    assert outcomes[0].cache_status.endswith(f"detail={why}")
    assert cache.counts.not_stored == {why: 2}


async def test_what_the_call_raises_passes_through_and_nothing_is_stored() -> None:
    """The cache adds no error of its own."""
    store = SpyStore()

    async def call() -> Answer:
        raise ConnectionError("provider away")

    cache = Responses(Policy(store=store).view)
    with pytest.raises(ConnectionError, match="provider away"):
        await cache.get_or_call(REQUEST, call, provider="openai", identity=ALICE)
    assert store.items == {}


async def test_no_cache_asks_the_provider_and_renews_the_entry() -> None:
    """RFC 9111: no-cache may be stored."""
    call = Provider()
    cache = Responses(Policy().view)
    await ask(cache, call)
    fresh = await ask(cache, call, replace(REQUEST, cache_control="No-Cache"))
    assert not fresh.hit
    assert "fwd=request" in fresh.cache_status
    assert (await ask(cache, call)).answer.body == fresh.answer.body
    assert call.calls == 2


async def test_no_store_leaves_nothing_behind() -> None:
    """RFC 9111: no-store may be served from the cache and is not stored."""
    store, call = SpyStore(), Provider()
    cache = Responses(Policy(store=store).view)
    got = await ask(cache, call, replace(REQUEST, cache_control="max-age=0, no-store"))
    assert got.cache_status.endswith("detail=no-store")
    assert store.items == {}


async def test_the_most_specific_time_to_live_wins() -> None:
    """Model before provider before cache."""
    settings = ResponseCache(
        ttl=Duration.parse("10m"),
        jitter_percent=0,
        providers={
            "openai": ProviderCache(
                ttl=Duration.parse("1h"), models={"gpt-x": ModelCache(ttl=Duration.parse("5m"))}
            )
        },
    )
    store = SpyStore()
    cache = Responses(Policy(store=store, responses=settings).view)
    other = replace(REQUEST, body={**REQUEST.body, "model": "gpt-y"})
    for request, provider in ((REQUEST, "openai"), (other, "openai"), (REQUEST, "azure")):
        await ask(cache, Provider(), request, provider=provider)
    assert [item.ttl_ms for item in store.items.values()] == [300_000, 3_600_000, 600_000]


async def test_the_store_away_never_stops_an_answer() -> None:
    """One question to the store, none after it failed, and the call goes on."""
    store, call = AwayStore(), Provider()
    cache = Responses(Policy(store=store).view)
    got = await ask(cache, call)
    assert got.answer.status == 200
    assert got.cache_status == "CachePolicy; fwd=miss; detail=store-unavailable; fwd-status=200; stored"
    assert (store.asked, cache.counts.store_failures) == (1, 1)


async def test_while_the_store_is_away_the_process_remembers_and_forgets_what_is_purged() -> None:
    """The same question costs one call; a stamp that changes empties the memory too; the store is asked again once
    it is back."""
    policy, call, shared = Policy(store=AwayStore()), Provider(), SpyStore()
    cache = Responses(policy.view, now_ms=Clock())
    await ask(cache, call)
    again = await ask(cache, call)
    assert again.cache_status == "CachePolicy; hit; ttl=600; detail=memory"
    policy.stamps = {"all": "2"}
    assert not (await ask(cache, call)).hit
    policy.store = shared
    assert not (await ask(cache, call)).hit
    assert (call.calls, len(shared.items)) == (3, 1)


async def test_the_memory_is_not_used_while_a_purge_could_have_been_missed() -> None:
    policy, call = Policy(store=AwayStore()), Provider()
    cache = Responses(policy.view)
    await ask(cache, call)
    policy.stamps = None
    assert (await ask(cache, call)).cache_status.endswith("fwd=bypass; detail=purge-state-unknown")


async def test_a_store_that_fails_only_when_writing_never_stops_an_answer() -> None:
    """The answer is there already."""

    class ReadOnly(AwayStore):
        async def get(self, key: str) -> bytes | None:
            return None

    cache = Responses(Policy(store=ReadOnly()).view)
    got = await ask(cache, Provider())
    assert got.cache_status.endswith("detail=store-unavailable")


async def test_a_damaged_entry_is_a_miss_and_is_replaced() -> None:
    """Foreign bytes under our name."""
    store, call = SpyStore(), Provider()
    cache = Responses(Policy(store=store).view)
    await ask(cache, call)
    (key,) = store.items
    await store.put(key, b"damage", 1000)
    assert not (await ask(cache, call)).hit
    assert (await ask(cache, call)).hit


@pytest.mark.parametrize(
    "change",
    [
        {"stamps": {"all": "2"}},
        {"stamps": {"all": "1", "provider=openai": "1"}},
        {"stamps": {"all": "1", "tenant=acme": "1"}},
        {"stamps": {"all": "1", "model=gpt-x": "1"}},
        {"stamps": {"all": "1", "kind=responses": "1"}},
        {"stamps": {"all": "1", "kind=responses&tenant=acme&provider=openai&model=gpt-x": "1"}},
        {"purge": Purge(all="1")},
        {"purge": Purge(providers={"openai": "1"})},
    ],
)
async def test_a_changed_stamp_of_its_scope_makes_an_entry_a_miss(change: Mapping[str, Any]) -> None:
    """At runtime and by the policy, in every width."""
    policy, call = Policy(), Provider()
    cache = Responses(policy.view)
    await ask(cache, call)
    for name, value in change.items():
        setattr(policy, name, value)
    got = await ask(cache, call)
    assert not got.hit
    assert "fwd=stale" in got.cache_status


@pytest.mark.parametrize("field", ["tenant=other", "provider=azure", "model=gpt-y", "kind=embeddings"])
async def test_a_stamp_of_another_scope_leaves_an_entry_alone(field: str) -> None:
    """A purge empties its scope and nothing else."""
    policy, call = Policy(), Provider()
    cache = Responses(policy.view)
    await ask(cache, call)
    policy.stamps = {"all": "1", field: "9"}
    assert (await ask(cache, call)).hit


async def test_an_answer_asked_for_before_a_purge_is_not_served_after_it() -> None:
    """The entry carries the stamp from before the call."""
    policy, provider = Policy(), Provider()
    cache = Responses(policy.view)

    async def purged_meanwhile() -> Answer:
        policy.stamps = {"all": "2"}
        return await provider()

    await cache.get_or_call(REQUEST, purged_meanwhile, provider="openai", identity=ALICE)
    assert not (await ask(cache, provider)).hit


async def test_unknown_stamps_bypass_the_cache() -> None:
    """A purge could have been missed."""
    policy, call = Policy(), Provider()
    cache = Responses(policy.view)
    await ask(cache, call)
    policy.stamps = None
    got = await ask(cache, call)
    assert got.cache_status == "CachePolicy; fwd=bypass; detail=purge-state-unknown"


async def test_a_request_keeps_the_policy_that_it_began_with() -> None:
    """A cache that is switched off during a call still stores by the rules of its start."""
    store = SpyStore()
    policy = Policy(store=store)
    cache = Responses(policy.view)

    async def switched_off_meanwhile() -> Answer:
        policy.responses = None
        return answer(chat_body())

    await cache.get_or_call(REQUEST, switched_off_meanwhile, provider="openai", identity=ALICE)
    assert len(store.items) == 1
    assert (await ask(cache, Provider())).cache_status == "CachePolicy; fwd=bypass; detail=no-policy"


async def test_a_new_hmac_key_means_misses() -> None:
    """Neither the names nor the seals of the old key are valid."""
    policy, call = Policy(), Provider()
    cache = Responses(policy.view)
    await ask(cache, call)
    policy.secret = CacheSecret.derive(b"a new key of a test, long enough")
    assert not (await ask(cache, call)).hit


async def test_a_body_without_canonical_form_is_passed_on() -> None:
    """The provider decides what it thinks of it."""
    call = Provider()
    cache = Responses(Policy().view)
    got = await ask(cache, call, replace(REQUEST, body={**REQUEST.body, "seed": 2**70}))
    assert got.cache_status == "CachePolicy; fwd=bypass; detail=not-canonical"
    assert call.calls == 1


async def test_no_prompt_is_readable_in_a_key() -> None:
    """Names in Redis hold prefix, tenant, provider and a digest."""
    store = SpyStore()
    await ask(Responses(Policy(store=store).view), Provider())
    (key,) = store.items
    prefix, _, digest = key.rpartition(":")
    assert prefix == f"{LAYOUT.prefix}:c:{{acme}}:r:openai"
    assert len(bytes.fromhex(digest)) == 32
