"""Which limits apply to a request, what is asked of the store, and what an outage does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from cachepolicy.identity import Identity
from cachepolicy.keys import KeyLayout
from cachepolicy.limits import RateLimit, Unit
from cachepolicy_runtime.ratelimit import Decision, Outcome, RateLimiter, RateReport, Subject, compile_limits
from cachepolicy_runtime.ratelimit_answer import headers, problem, rate_limit, rate_limit_policy, status_of
from cachepolicy_runtime.store.memory_limits import MemoryLimitStore
from cachepolicy_runtime.store.port import Adjustment, Admission, Check, Lease, LimitCheck, StoreUnavailable

KEYS = KeyLayout("masterclaw/core")
ANN = Identity("acme", "ann", "key-1")


class Away:
    """A limit store that is down."""

    async def admit(self, checks: Sequence[Check], **more: Any) -> Admission:
        raise StoreUnavailable("state", "connection refused")

    async def adjust(self, adjustments: Sequence[Adjustment]) -> None:
        raise StoreUnavailable("state", "connection refused")

    async def renew(self, leases: Sequence[Lease], timeout_ms: int) -> None:
        raise StoreUnavailable("state", "connection refused")

    def release(self, leases: Sequence[Lease]) -> None:
        """Nobody is told that it did not work."""


def limit(*by: str, rates: Sequence[tuple[int, str]] = ((2, "1m"),), **more: object) -> RateLimit:
    return RateLimit.model_validate(
        {
            "by": [{"type": kind} for kind in by],
            "rates": [{"limit": number, "window": window} for number, window in rates],
            **more,
        }
    )


def asked(limits: dict[str, RateLimit], subject: Subject) -> list[str]:
    """The keys that the store would be asked for."""
    found = compile_limits(limits).asked(subject, KEYS)
    checks = found.checks if found is not None else ()
    return [rate.key for check in checks if isinstance(check, LimitCheck) for rate in check.rates]


def memory() -> MemoryLimitStore:
    return MemoryLimitStore(lambda: 1_000_000_000)


def request(**parts: object) -> Subject:
    return Subject(**{"method": "POST", "path": "/v1/chat", "ip": "192.0.2.1", "identity": ANN, **parts})  # type: ignore[arg-type]  # the dataclass's own names


def test_a_key_consists_of_the_by_values_in_their_order_and_of_nothing_else() -> None:
    assert asked({"a": limit("Tenant", "User", "APIKey", "IP")}, request()) == [
        "masterclaw/core:w:a:60000:tenant=acme&user=ann&apikey=key-1&ip=192.0.2.1"
    ]
    assert asked({"a": limit("User")}, request()) == ["masterclaw/core:w:a:60000:user=ann"]


def test_each_window_has_a_key_of_its_own() -> None:
    keys = asked({"a": limit("IP", rates=((1, "1s"), (5, "1h")))}, request())
    assert keys == ["masterclaw/core:w:a:1000:ip=192.0.2.1", "masterclaw/core:w:a:3600000:ip=192.0.2.1"]


def test_whoever_is_not_authenticated_is_limited_by_address_only() -> None:
    limits = {"tenant": limit("Tenant", "IP"), "ip": limit("IP"), "key": limit("APIKey")}
    assert asked(limits, request(identity=None)) == ["masterclaw/core:w:ip:60000:ip=192.0.2.1"]


def test_a_limit_by_user_leaves_a_caller_without_user_to_the_other_limits() -> None:
    assert asked({"a": limit("Tenant", "User")}, request(identity=Identity("acme"))) == []


@pytest.mark.parametrize(
    ("ip", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001%3Adb8%3A1%3A2%3A%3A%2F64"),
        (None, "unknown"),
        ("testclient", "unknown"),
    ],
)
def test_an_ipv6_caller_is_counted_by_network_and_one_without_address_too(
    ip: str | None, counted: str
) -> None:
    assert asked({"a": limit("IP")}, request(ip=ip)) == [f"masterclaw/core:w:a:60000:ip={counted}"]


def test_a_hostile_tenant_stays_inside_its_own_key() -> None:
    (key,) = asked({"a": limit("Tenant", "User")}, request(identity=Identity("a&user=b", "c:*")))
    assert key == "masterclaw/core:w:a:60000:tenant=a%26user%3Db&user=c%3A%2A"


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/login", ["/login"], ["/login/", "/loginx", "/x/login"]),
        ("/v1/*", ["/v1/chat", "/v1/"], ["/v1", "/v1/chat/completions"]),
        ("/v1/**", ["/v1", "/v1/", "/v1/chat/completions"], ["/v10", "/v2/v1"]),
        ("/**/admin", ["/admin", "/a/b/admin"], ["/admin/x"]),
        ("/a.c", ["/a.c"], ["/abc"]),
        ("/*.json", ["/a.json"], ["/a/b.json"]),
    ],
)
def test_paths_are_globs(pattern: str, matching: list[str], other: list[str]) -> None:
    limits = {"a": limit("IP", match={"paths": ["/never", pattern]})}
    assert [path for path in matching + other if asked(limits, request(path=path))] == matching


def test_a_limit_may_be_for_some_methods() -> None:
    limits = {"a": limit("IP", match={"methods": ["POST", "PUT"]})}
    assert [method for method in ("GET", "POST", "PUT") if asked(limits, request(method=method))] == [
        "POST",
        "PUT",
    ]


async def test_a_request_without_any_limit_passes_without_the_store() -> None:
    decision = await RateLimiter(Away(), memory(), lambda: 1).admit(compile_limits({}), KEYS, request())
    assert decision == Decision(Outcome.ADMITTED)
    assert headers(decision) == []


async def test_the_limit_that_refuses_is_named_and_no_other_is_burnt() -> None:
    limits = compile_limits({"wide": limit("Tenant", rates=((10, "1m"),)), "narrow": limit("User")})
    limiter = RateLimiter(memory(), memory(), lambda: 1)
    first, _, third = [await limiter.admit(limits, KEYS, request()) for _ in range(3)]
    assert first.allowed
    assert not first.degraded
    assert third.outcome is Outcome.LIMITED
    assert [rate.policy for rate in third.refused_by] == ["narrow"]
    assert {rate.policy: rate.remaining for rate in third.rates} == {"wide": 8, "narrow": 0}


@pytest.mark.parametrize(("live", "admitted"), [(1, 6), (2, 3), (4, 1), (100, 1), (0, 6)])
async def test_an_outage_divides_a_local_limit_by_the_live_processes(live: int, admitted: int) -> None:
    limiter = RateLimiter(Away(), memory(), lambda: live)
    limits = compile_limits({"a": limit("Tenant", rates=((6, "1m"),))})
    decisions = [await limiter.admit(limits, KEYS, request()) for _ in range(10)]
    assert sum(decision.allowed for decision in decisions) == admitted
    assert all(decision.degraded for decision in decisions)
    assert decisions[0].rates[0].limit == max(1, 6 // max(1, live))


async def test_in_an_outage_deny_refuses_and_allow_passes_uncounted() -> None:
    limiter = RateLimiter(Away(), memory(), lambda: 1)
    deny = compile_limits({"a": limit("IP"), "b": limit("IP", onStoreFailure="Deny")})
    allow = compile_limits({"a": limit("IP", onStoreFailure="Allow", rates=((1, "1m"),))})
    refused = await limiter.admit(deny, KEYS, request())
    assert (refused.outcome, refused.degraded) == (Outcome.UNAVAILABLE, True)
    assert all([(await limiter.admit(allow, KEYS, request())).allowed for _ in range(5)])
    assert (status_of(refused), headers(refused)) == (503, [(b"retry-after", b"1")])
    assert json.loads(problem(refused))["status"] == 503


async def test_a_limit_that_denies_does_not_touch_requests_it_is_not_for() -> None:
    limits = compile_limits({"login": limit("IP", onStoreFailure="Deny", match={"paths": ["/login"]})})
    assert (await RateLimiter(Away(), memory(), lambda: 1).admit(limits, KEYS, request())).allowed


REFUSED = Decision(
    Outcome.LIMITED,
    (
        RateReport("per-user/1m", 60, 60_000, 0, 60_500, 1_001),
        RateReport("per-user/1h", 1000, 3_600_000, 940, 3_700_000, 0),
    ),
)


def test_headers_are_structured_fields_with_seconds_rounded_up() -> None:
    assert rate_limit_policy(REFUSED) == '"per-user/1m";q=60;w=60, "per-user/1h";q=1000;w=3600'
    assert rate_limit(REFUSED) == '"per-user/1m";r=0;t=2, "per-user/1h";r=940;t=3700'
    assert dict(headers(REFUSED))[b"retry-after"] == b"2"
    assert status_of(REFUSED) == 429


def test_an_admitted_request_gets_its_quota_and_no_retry_after() -> None:
    names = [name for name, _ in headers(Decision(Outcome.ADMITTED, (RateReport("a", 5, 1000, 4, 1100, 0),)))]
    assert names == [b"ratelimit-policy", b"ratelimit"]


def test_a_refusal_is_a_problem_document_that_names_the_window() -> None:
    body = json.loads(problem(REFUSED))
    assert body["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert (body["status"], body["violated-policies"]) == (429, ["per-user/1m"])
    assert body["detail"] == "No room in per-user/1m. Try again in 2 s."


async def test_a_limit_with_several_windows_reports_each_under_a_name_of_its_own() -> None:
    limits = compile_limits({"a": limit("IP", rates=((5, "1m"), (9, "1h"))), "b": limit("IP")})
    decision = await RateLimiter(memory(), memory(), lambda: 1).admit(limits, KEYS, request())
    assert [rate.policy for rate in decision.rates] == ["a/1m", "a/1h", "b"]


MIXED = Decision(
    Outcome.LIMITED,
    (
        RateReport("tokens", 200_000, 60_000, 12, 60_000, 0, Unit.TOKENS),
        RateReport("parallel", 20, 0, 0, 0, 1000, Unit.CONCURRENCY),
        RateReport("short", 5, 100, 5, 0, 0),
    ),
)


def test_units_other_than_requests_are_named_and_slots_have_no_window() -> None:
    """draft-ietf-httpapi-ratelimit-headers-11, 3.1.2; a window is whole seconds and never 0."""
    assert rate_limit_policy(MIXED) == (
        '"tokens";q=200000;qu="tokens";w=60, "parallel";q=20;qu="concurrent-requests", "short";q=5;w=1'
    )
    assert rate_limit(MIXED) == '"tokens";r=12;t=60, "parallel";r=0, "short";r=5;t=0'
    assert dict(headers(MIXED))[b"retry-after"] == b"1"


def test_retry_after_is_never_earlier_than_the_window_that_is_told() -> None:
    """Draft 11, 6: what refuses tells when it has room, not when all of it is free."""
    windows = [item.split(";") for item in rate_limit(REFUSED).split(", ")]
    refusing = [int(parts[2][2:]) for parts in windows if parts[1] == "r=0"]
    assert refusing
    assert int(dict(headers(REFUSED))[b"retry-after"]) >= max(refusing)


async def test_the_quota_header_is_made_once_and_names_all_limits_in_every_refusal() -> None:
    """Also in one that is remembered, which knows only the window that refuses."""
    limits = compile_limits(
        {"narrow": limit("IP", rates=((1, "1m"),)), "wide": limit("IP", rates=((9, "1m"),))}
    )
    limiter = RateLimiter(Counting(), memory(), lambda: 1)
    told = [dict(headers(await limiter.admit(limits, KEYS, request()))) for _ in range(3)]
    assert {headers_[b"ratelimit-policy"] for headers_ in told} == {b'"narrow";q=1;w=60, "wide";q=9;w=60'}
    assert told[1][b"ratelimit"].count(b'"') == 4
    assert told[2][b"ratelimit"].startswith(b'"narrow";r=0;t=')
    assert told[2][b"ratelimit"].count(b'"') == 2


class Counting:
    """A store that is not this process's memory."""

    def __init__(self) -> None:
        self._memory = memory()

    async def admit(self, checks: Sequence[Check], **more: Any) -> Admission:
        return self._memory.decide(checks, **more)

    async def adjust(self, adjustments: Sequence[Adjustment]) -> None:
        self._memory.correct(adjustments)

    async def renew(self, leases: Sequence[Lease], timeout_ms: int) -> None:
        await self._memory.renew(leases, timeout_ms)

    def release(self, leases: Sequence[Lease]) -> None:
        self._memory.release(leases)
