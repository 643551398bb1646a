"""Whose answers are read, which requests and answers the policy takes, and what Shadow and Off do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.caches import ALICE, LAYOUT, REQUEST, Clock, Policy, Provider, SpyStore, answer, ask, chat_body

from cachepolicy import Duration, Identity
from cachepolicy.caches import CacheMode
from cachepolicy.decimals import DecimalNumber
from cachepolicy.keys import user_scope
from cachepolicy.response_cache import Cacheable, CacheScope, LocalCache, ResponseCache, ToolCalls
from cachepolicy_runtime.answers import Answer, refusal, said
from cachepolicy_runtime.keys import UpstreamRequest
from cachepolicy_runtime.responses import Responses

BOB, EVE = Identity("acme", "bob"), Identity("globex", "eve")


def cache_of(store: SpyStore | None = None, **rules: Any) -> tuple[Responses, Policy]:
    policy = Policy(store=store or SpyStore(), responses=ResponseCache(jitter_percent=0, **rules))
    return Responses(policy.view), policy


# --- scopes -----------------------------------------------------------------------------------------------


async def test_by_user_nobody_shares() -> None:
    store = SpyStore()
    cache, _ = cache_of(store, scope=CacheScope.USER)
    await ask(cache, Provider(), identity=ALICE)
    assert (await ask(cache, Provider(), identity=ALICE)).hit
    assert not (await ask(cache, Provider(), identity=BOB)).hit
    assert not (await ask(cache, Provider(), identity=Identity("globex", "alice"))).hit
    assert all(":c:{acme/" in key or ":c:{globex/" in key for key in store.items)


async def test_by_user_a_caller_without_one_is_not_cached() -> None:
    cache, _ = cache_of(scope=CacheScope.USER)
    got = await ask(cache, Provider(), identity=Identity("acme"))
    assert got.cache_status == "CachePolicy; fwd=bypass; detail=no-user"


async def test_globally_all_tenants_share_and_strangers_do_not() -> None:
    """A purge of one tenant leaves the common answers alone."""
    store = SpyStore()
    cache, policy = cache_of(store, scope=CacheScope.GLOBAL, accept_cross_tenant_timing=True)
    await ask(cache, Provider(), identity=ALICE)
    policy.stamps = {"all": "1", "tenant=acme": "1"}
    assert (await ask(cache, Provider(), identity=EVE)).hit
    assert not (await ask(cache, Provider(), identity=None)).hit
    assert [key.split(":r:")[0] for key in store.items] == [f"{LAYOUT.prefix}:c:{{@}}"]


def test_no_name_of_a_tenant_or_user_reaches_another_scope() -> None:
    """Neither the separator nor the sign of what all share can be written in a name."""
    assert user_scope("a", "b/c") != user_scope("a/b", "c")
    assert "@" not in user_scope("@", "@")


async def test_a_key_that_was_derived_ahead_is_the_same_key() -> None:
    """And it opens nothing to anybody else."""
    cache, _ = cache_of()
    await ask(cache, Provider())
    key = cache.key(REQUEST, provider="openai", identity=ALICE)
    assert key is not None
    assert (await ask(cache, Provider(), key=key)).hit
    assert not (await ask(cache, Provider(), identity=EVE, key=key)).hit
    assert cache.key(REQUEST, provider="openai", identity=None) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["acme", "a}b", "@", "acme/alice", "..", "*", "%40"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    victim=NAMES,
    attacker=NAMES,
    fields=st.dictionaries(
        st.sampled_from(["user", "metadata", "tenant", "cache", "n", "x"]) | NAMES, JSON, max_size=3
    ),
    headers=st.dictionaries(
        st.sampled_from(["X-Tenant", "OpenAI-Organization", "cookie", "x-user"]), NAMES, max_size=3
    ),
    query=NAMES,
    scope=st.sampled_from([CacheScope.TENANT, CacheScope.USER]),
    local=st.booleans(),
)
async def test_whatever_a_caller_sends_he_never_gets_anothers_answer(
    *,
    victim: str,
    attacker: str,
    fields: dict[str, Any],
    headers: dict[str, str],
    query: str,
    scope: CacheScope,
    local: bool,
) -> None:
    """The same request by another tenant, with any field, header and query on top, is never a hit."""
    if victim == attacker:
        return
    store = SpyStore()
    cache, _ = cache_of(store, scope=scope, local=LocalCache() if local else None)
    request = UpstreamRequest(f"{REQUEST.url}?q={query}", {**fields, **REQUEST.body}, headers)
    key = cache.key(request, provider="openai", identity=Identity(victim, "u"))
    first = await ask(cache, Provider(), request, identity=Identity(victim, "u"))
    for given_key in (None, key):
        other = await ask(cache, Provider(), request, identity=Identity(attacker, "u"), key=given_key)
        if first.cache_status.endswith("stored"):
            assert not other.hit
    owners = {name.split("}:r:")[0] for name in store.items}
    assert len(owners) in (0, 2)


# --- modes ------------------------------------------------------------------------------------------------


async def test_off_neither_reads_nor_stores() -> None:
    store = SpyStore()
    cache, policy = cache_of(store)
    await ask(cache, Provider())
    policy.responses = ResponseCache(mode=CacheMode.OFF)
    got = await ask(cache, Provider())
    assert got.cache_status == "CachePolicy; fwd=bypass; detail=off"
    assert len(store.items) == 1


async def test_shadow_asks_each_time_and_counts_what_it_would_have_found() -> None:
    """Its answers are the provider's own, also when the provider fails."""
    cache, policy = cache_of(mode=CacheMode.SHADOW, stale_if_error=Duration.parse("1h"), local=LocalCache())
    call = Provider()
    told = [(await ask(cache, call)).cache_status for _ in range(3)]
    assert told[0] == "CachePolicy; fwd=bypass; detail=shadow-miss; fwd-status=200; stored"
    assert told[1:] == ["CachePolicy; fwd=bypass; detail=shadow-hit; fwd-status=200; stored"] * 2
    assert (await ask(cache, Provider(500))).answer.status == 500
    counts = cache.counts.as_dict()
    assert call.calls == 3
    assert (counts["hits"], counts["wouldHits"], counts["wouldRatio"]) == (0, 3, 0.75)
    assert counts["wouldDiffer"] == 3
    policy.responses = ResponseCache(jitter_percent=0)
    assert (await ask(cache, Provider())).hit


async def test_shadow_does_not_ask_for_who_wants_only_what_is_cached() -> None:
    """It has nothing for him."""
    cache, _ = cache_of(mode=CacheMode.SHADOW)
    call = Provider()
    await ask(cache, call)
    got = await ask(cache, call, replace(REQUEST, cache_control="only-if-cached"))
    assert (got.answer.status, call.calls) == (504, 1)


async def test_shadow_tells_answers_that_say_the_same() -> None:
    """Ids and times differ each time."""
    cache, _ = cache_of(mode=CacheMode.SHADOW)
    numbers = iter(range(10))

    async def call() -> Answer:
        return answer({**chat_body("Hello."), "id": f"c-{next(numbers)}", "created": next(numbers)})

    for _ in range(2):
        await ask(cache, call)
    assert (cache.counts.would_hits, cache.counts.would_differ) == (1, 0)
    assert said(b"no json") is None
    assert said(b"[]") is None


# --- requests and answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "cached"),
    [(None, True), (0, True), (0.5, True), (0.51, False), (1, False), ("hot", False), (float("nan"), False)],
)
async def test_a_request_that_names_a_higher_temperature_is_not_cached(
    temperature: object, cached: bool
) -> None:
    """One that names none is: most name none, and reasoning models take none."""
    cache, _ = cache_of(cacheable=Cacheable(max_temperature=DecimalNumber.parse("0.5")))
    body = REQUEST.body if temperature is None else {**REQUEST.body, "temperature": temperature}
    got = await ask(cache, Provider(), replace(REQUEST, body=body))
    assert got.cache_status.endswith("stored" if cached else "fwd=bypass; detail=temperature")


TOOLS = Cacheable(tool_calls=ToolCalls.ALLOW)
USAGE = {"input_tokens": 1, "output_tokens": 2}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "body",
    [
        chat_body(message={"content": None, "tool_calls": [CALL]}, finish_reason="tool_calls"),
        chat_body(message={"content": None, "function_call": {"name": "f"}}, finish_reason="function_call"),
        {
            "object": "response",
            "status": "completed",
            "output": [{"type": "reasoning"}, {"type": "function_call", "name": "f", "arguments": "{}"}],
            "usage": USAGE,
        },
        {
            "type": "message",
            "content": [{"type": "tool_use", "name": "f"}],
            "stop_reason": "tool_use",
            "usage": USAGE,
        },
        {
            "type": "message",
            "content": [
                {"type": "server_tool_use"},
                {"type": "web_search_tool_result"},
                {"type": "text", "text": "Hi"},
            ],
            "stop_reason": "end_turn",
            "usage": USAGE,
        },
    ],
    ids=["chat", "function", "responses", "messages", "server tool"],
)
def test_answers_that_call_a_tool_are_stored_where_the_policy_allows_it(body: dict[str, Any]) -> None:
    assert refusal(answer(body), TOOLS) is None
    assert refusal(answer(body), Cacheable()) == "tool-calls"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (chat_body(message={"content": None, "tool_calls": [CALL]}, finish_reason="length"), "finish-reason"),
        (chat_body(finish_reason="tool_calls"), "finish-reason"),
        (
            {
                "type": "message",
                "content": [{"type": "tool_use"}],
                "stop_reason": "max_tokens",
                "usage": USAGE,
            },
            "finish-reason",
        ),
        (
            {"type": "message", "content": [{"type": "new"}], "stop_reason": "tool_use", "usage": USAGE},
            "tool-calls",
        ),
        ({"object": "response", "status": "incomplete", "output": [], "usage": USAGE}, "incomplete"),
    ],
    ids=["cut off", "no call", "cut off message", "unknown block", "incomplete"],
)
def test_a_call_of_a_tool_has_to_be_whole_as_well(body: dict[str, Any], why: str) -> None:
    assert refusal(answer(body), TOOLS) == why


async def test_a_large_answer_is_kept_whole() -> None:
    """Ten MiB, where the policy takes them; one byte more is passed on and not stored."""
    rules = Cacheable.model_validate({"maxEntryBytes": "10Mi"})
    cache, _ = cache_of(cacheable=rules)
    empty = len(answer(chat_body("")).body)
    whole = answer(chat_body("x" * (10 * 1024 * 1024 - empty)))

    async def call() -> Answer:
        return whole

    assert (await ask(cache, call)).cache_status.endswith("stored")
    assert (await ask(cache, call)).answer.body == whole.body
    assert refusal(answer(chat_body("x" * (10 * 1024 * 1024 - empty + 1))), rules) == "too-large"


async def test_an_inspection_tells_and_changes_nothing() -> None:
    clock = Clock()
    policy = Policy(
        store=SpyStore(), responses=ResponseCache(jitter_percent=0, stale_if_error=Duration.parse("1h"))
    )
    cache = Responses(policy.view, now_ms=clock)

    async def seen(**more: Any) -> tuple[str, str | None, int | None, int | None]:
        found = await cache.inspect(REQUEST, provider="openai", identity=more.get("identity", ALICE))
        return found.result, found.detail, found.ttl_s, found.age_s

    assert await seen() == ("miss", None, None, None)
    assert await seen(identity=None) == ("bypass", "no-identity", None, None)
    await ask(cache, Provider())
    clock.ms += 60_000
    assert await seen() == ("hit", "fresh", 540, 60)
    clock.ms += 600_000
    assert await seen() == ("stale", "if-error", -60, 660)
    policy.stamps = {"all": "2"}
    assert await seen() == ("miss", "purged", None, None)
    assert cache.counts.of("openai", "gpt-x").misses == 1


async def test_each_miss_is_told_to_whoever_wants_to_know() -> None:
    """With the tenant, so that nobody else's is shown to anybody."""
    cache, _ = cache_of()
    told: list[tuple[str, str, UpstreamRequest]] = []
    cache.on_miss = lambda *missed: told.append(missed)
    await ask(cache, Provider())
    await ask(cache, Provider())
    await ask(cache, Provider(), identity=None)
    assert told == [("acme", "openai", REQUEST)]
