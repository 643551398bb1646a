"""Answers over their time: served while one is renewed, served when the provider fails, and what a request may say."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from tests.caches import (
    ALICE,
    REQUEST,
    AwayStore,
    Clock,
    HeldProvider,
    Policy,
    Provider,
    SharedLeases,
    SpyStore,
    answer,
    ask,
    chat_body,
    settled,
)

from cachepolicy import Duration
from cachepolicy.response_cache import LocalCache, ResponseCache
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.responses import Responses

RULES = ResponseCache(
    ttl=Duration.parse("100s"),
    stale_while_revalidate=Duration.parse("10s"),
    stale_if_error=Duration.parse("60s"),
    jitter_percent=0,
)


class Site:
    """One replica, a clock and a store that others may share."""

    def __init__(self, rules: ResponseCache = RULES, store: SpyStore | None = None) -> None:
        self.clock = Clock()
        self.store = store or SpyStore()
        self.leases = SharedLeases(self.store)
        self.policy = Policy(store=self.store, leases=self.leases, responses=rules)
        self.cache = Responses(self.policy.view, now_ms=self.clock)

    def pass_s(self, seconds: float) -> None:
        self.clock.ms += int(seconds * 1000)


async def test_an_entry_is_kept_for_as_long_as_it_may_be_needed() -> None:
    """Its time to live and the longer of the two windows after it."""
    site = Site()
    await ask(site.cache, Provider())
    assert [item.ttl_ms for item in site.store.items.values()] == [160_000]


async def test_a_stale_answer_is_served_at_once_and_renewed_behind_it() -> None:
    """One call, however many ask meanwhile; the next one gets the new answer."""
    site, call = Site(), HeldProvider()
    call.go.set()
    await ask(site.cache, call)
    site.pass_s(105)
    call.go.clear()
    stale = [await ask(site.cache, call) for _ in range(3)]
    await settled()
    assert call.calls == 2
    assert {got.cache_status for got in stale} == {"CachePolicy; hit; ttl=-5; detail=stale"}
    assert {got.headers["Age"] for got in stale} == {"105"}
    call.go.set()
    await settled()
    fresh = await ask(site.cache, call)
    assert fresh.cache_status == "CachePolicy; hit; ttl=100"
    assert b"Hello 2." in fresh.answer.body
    assert (site.cache.counts.stale_served, site.cache.counts.refreshed) == (3, 1)
    assert site.leases.holders == {}


async def test_of_several_replicas_one_renews() -> None:
    """The lease tells who."""
    first = Site()
    other = Responses(first.policy.view, now_ms=first.clock)
    call = HeldProvider()
    call.go.set()
    await ask(first.cache, call)
    first.pass_s(105)
    call.go.clear()
    for cache in (first.cache, other):
        await ask(cache, call)
    await settled()
    assert call.calls == 2
    call.go.set()
    await settled()


async def test_a_renewal_that_fails_disturbs_nobody_and_is_not_repeated_at_once() -> None:
    """The provider is left alone for a moment, over all replicas."""
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(105)

    async def broken() -> Answer:
        raise ConnectionError

    for _ in range(3):
        assert (await ask(site.cache, broken)).hit
        await settled()
    assert (site.cache.counts.refresh_failures, site.cache.counts.refreshed) == (1, 0)
    assert list(site.leases.apart.values()) == [2000]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_when_the_provider_fails_an_older_answer_is_served(status: int) -> None:
    """Cache-Status says that the provider was asked and what it said."""
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(130)
    got = await ask(site.cache, Provider(status))
    assert b"Hello 1." in got.answer.body
    assert got.cache_status == f"CachePolicy; fwd=stale; fwd-status={status}; detail=stale-if-error"
    assert (got.hit, got.headers["Age"]) == (False, "130")


async def test_what_the_call_raises_is_covered_by_an_older_answer_too() -> None:
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(130)

    async def broken() -> Answer:
        raise TimeoutError

    got = await ask(site.cache, broken)
    assert got.cache_status == "CachePolicy; fwd=stale; detail=stale-if-error"
    assert site.cache.counts.stale_errors == 1


async def test_an_answer_that_says_no_is_no_failure() -> None:
    """400 is for the caller to see."""
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(130)
    got = await ask(site.cache, Provider(400))
    assert got.answer.status == 400


async def test_beyond_its_windows_an_answer_is_served_to_nobody() -> None:
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(161)
    with pytest.raises(TimeoutError):
        await ask(site.cache, Broken())


async def test_a_purged_answer_is_not_served_when_the_provider_fails() -> None:
    """A purge empties at once, whatever else the policy says."""
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(105)
    site.policy.stamps = {"all": "2"}
    with pytest.raises(TimeoutError):
        await ask(site.cache, Broken())


@pytest.mark.parametrize("tags", [(), ("faq",)])
@pytest.mark.parametrize("status", [None, 500])
async def test_what_is_purged_while_the_provider_is_asked_does_not_stand_in_for_it(
    status: int | None, tags: tuple[str, ...]
) -> None:
    """A provider may take minutes to fail."""
    site = Site()
    await ask(site.cache, Provider(), tags=tags)
    site.pass_s(130)

    async def failing() -> Answer:
        site.policy.stamps = {"all": "2"}
        if status is None:
            raise TimeoutError
        return answer({}, status)

    if status is None:
        with pytest.raises(TimeoutError):
            await ask(site.cache, failing)
    else:
        assert (await ask(site.cache, failing)).answer.status == status
    assert site.cache.counts.stale_served == 0


async def test_a_window_that_the_policy_does_not_have_any_more_is_over_at_once() -> None:
    """The store may keep the entry longer than the policy wants it."""
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(105)
    site.policy.responses = replace_rules(stale_while_revalidate=None, stale_if_error=None)
    assert not (await ask(site.cache, Provider())).hit


class Broken:
    async def __call__(self) -> Answer:
        raise TimeoutError


def replace_rules(**changes: object) -> ResponseCache:
    return RULES.model_copy(update=changes)


# --- directives -------------------------------------------------------------------------------------------


async def told(site: Site, cache_control: str) -> str:
    return (await ask(site.cache, Provider(), replace(REQUEST, cache_control=cache_control))).cache_status


async def test_a_request_may_ask_for_a_younger_answer() -> None:
    """What the provider then says is stored for all."""
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(50)
    assert await told(site, "max-age=60") == "CachePolicy; hit; ttl=50"
    assert await told(site, "max-age=40") == "CachePolicy; fwd=request; fwd-status=200; stored"
    assert await told(site, "max-age=40") == "CachePolicy; hit; ttl=100"


async def test_a_request_may_take_an_older_one() -> None:
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(150)
    assert await told(site, "max-stale=60") == "CachePolicy; hit; ttl=-50; detail=stale"
    assert site.cache.counts.refreshed == 0


async def test_only_if_cached_never_asks_the_provider() -> None:
    """504 and a problem document where there is nothing (RFC 9111)."""
    site, call = Site(), Provider()
    request = replace(REQUEST, cache_control="only-if-cached")
    got = await ask(site.cache, call, request)
    assert (got.answer.status, call.calls) == (504, 0)
    assert got.cache_status == "CachePolicy; detail=only-if-cached"
    assert got.answer.content_type == "application/problem+json"
    assert orjson.loads(got.answer.body)["status"] == 504
    assert (await ask(site.cache, call, request, identity=None)).answer.status == 504
    await ask(site.cache, call)
    assert (await ask(site.cache, call, request)).hit


# --- the first level --------------------------------------------------------------------------------------

LOCAL = replace_rules(local=LocalCache(ttl=Duration.parse("30s")))


async def test_a_hot_answer_comes_from_the_process_without_asking_the_store() -> None:
    """For as long as the policy says; then the store is asked again."""
    site = Site(LOCAL)
    await ask(site.cache, Provider())
    site.store.gets = 0
    site.pass_s(29)
    assert (await ask(site.cache, Provider())).cache_status == "CachePolicy; hit; ttl=71; detail=local"
    assert (site.store.gets, site.cache.counts.local_hits) == (0, 1)
    site.pass_s(1)
    assert (await ask(site.cache, Provider())).cache_status == "CachePolicy; hit; ttl=70"
    assert site.store.gets == 1


async def test_the_process_keeps_an_answer_no_longer_than_it_is_fresh() -> None:
    site = Site(LOCAL)
    await ask(site.cache, Provider())
    site.pass_s(95)
    await ask(site.cache, Provider())
    site.pass_s(5)
    assert (await ask(site.cache, Provider())).cache_status == "CachePolicy; hit; ttl=0; detail=stale"
    await settled()


@pytest.mark.parametrize("stamps", [{"all": "2"}, {"all": "1", "tenant=acme": "1"}, None])
async def test_a_purge_empties_the_process_at_once(stamps: dict[str, str] | None) -> None:
    """Also one that could have been missed."""
    site = Site(LOCAL)
    await ask(site.cache, Provider())
    site.policy.stamps = stamps
    assert not (await ask(site.cache, Provider())).hit


async def test_another_policy_without_a_first_level_forgets_it() -> None:
    site = Site(LOCAL)
    await ask(site.cache, Provider())
    site.policy.responses = RULES
    await ask(site.cache, Provider())
    site.policy.responses = LOCAL
    assert (await ask(site.cache, Provider())).cache_status == "CachePolicy; hit; ttl=100"


async def test_a_request_with_directives_looks_at_the_store() -> None:
    """What they take is judged there."""
    site = Site(LOCAL)
    await ask(site.cache, Provider())
    assert await told(site, "max-age=60") == "CachePolicy; hit; ttl=100"


async def test_nobody_can_change_what_others_will_get() -> None:
    """Bytes and headers are shared by all who read them."""
    site = Site(LOCAL)
    await ask(site.cache, Provider())
    got = await ask(site.cache, Provider())
    with pytest.raises(TypeError):
        got.answer.headers["x"] = "y"  # type: ignore[index]
    assert isinstance(got.answer.body, bytes)


async def test_tags_belong_to_the_entry_and_not_to_its_reader() -> None:
    """A purge of a tag empties what was stored with it, also in the process."""
    site = Site(LOCAL)
    await ask(site.cache, Provider(), tags=("faq", "de"))
    assert (await ask(site.cache, Provider(), tags=("other",))).hit
    site.policy.stamps = {"all": "1", "tag=other": "1"}
    assert (await ask(site.cache, Provider())).hit
    site.policy.stamps = {"all": "1", "tag=faq": "1"}
    assert not (await ask(site.cache, Provider())).hit


async def test_a_renewed_answer_keeps_the_tags_of_the_one_before() -> None:
    """Whoever's request renewed it."""
    site = Site()
    await ask(site.cache, Provider(), tags=("faq",))
    site.pass_s(105)
    await ask(site.cache, Provider(), tags=("de",))
    await settled()
    assert (await ask(site.cache, Provider())).cache_status == "CachePolicy; hit; ttl=100"
    for tag in ("faq", "de"):
        site.policy.stamps = {"all": "1", f"tag={tag}": "1"}
        assert (await site.cache.inspect(REQUEST, provider="openai", identity=ALICE)).result == "miss"


@pytest.mark.parametrize("cache_control", ["no-store", "only-if-cached"])
async def test_a_request_that_must_leave_nothing_behind_renews_nothing(cache_control: str) -> None:
    site, call = Site(), Provider()
    await ask(site.cache, call)
    site.pass_s(105)
    assert (await ask(site.cache, call, replace(REQUEST, cache_control=cache_control))).hit
    await settled()
    assert call.calls == 1


async def test_what_the_process_remembers_is_renewed_too_while_the_store_is_away() -> None:
    """Without a lease: there is nobody to share it with."""
    site, call = Site(), Provider()
    site.policy.store = AwayStore()
    await ask(site.cache, call)
    site.pass_s(105)
    await ask(site.cache, call)
    await settled()
    assert (await ask(site.cache, call)).cache_status == "CachePolicy; hit; ttl=100; detail=memory"
    assert (call.calls, site.cache.counts.refreshed) == (2, 1)


async def test_wrong_tags_are_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="tag"):
        await ask(Site().cache, Provider(), tags=("",))


def test_tags_come_from_the_header_that_the_policy_names_and_from_no_other() -> None:
    site = Site(replace_rules(tag_header="X-Cache-Tags"))
    headers = {"x-cache-tags": " faq, de ,,faq," + "x" * 65, "cache-tag": "evil"}
    assert site.cache.tags_in(headers) == ("de", "faq")
    assert len(site.cache.tags_in({"x-cache-tags": ",".join(map(str, range(40)))})) == 16
    assert Site().cache.tags_in(headers) == ()


async def test_an_answer_of_some_other_day_is_not_taken_for_one_of_the_future() -> None:
    """The clock of the replica that stored it may be ahead."""
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(-30)
    assert (await ask(site.cache, Provider())).headers["Age"] == "0"


async def test_the_answer_of_a_renewal_that_cannot_be_stored_changes_nothing() -> None:
    """Cut off, and so not stored: the old one stays until its windows end."""
    site = Site()
    await ask(site.cache, Provider())
    site.pass_s(105)

    async def cut_off() -> Answer:
        return answer(chat_body("Hello 2.", finish_reason="length"))

    await ask(site.cache, cut_off)
    await settled()
    assert b"Hello 1." in (await ask(site.cache, cut_off)).answer.body
    assert site.cache.counts.refresh_failures == 1
