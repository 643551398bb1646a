"""The policy document: what a reader takes, what it refuses, and how versions follow one another."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cachepolicy.acknowledgement import Acknowledgement, Member
from cachepolicy.document import DocumentError, Endpoint, PolicyDocument, build_document, read_document
from cachepolicy.names import Role
from cachepolicy.spec import CachePolicySpec

ENDPOINTS = {
    Role.STATE: "redis://core-state.masterclaw.svc:6379",
    Role.CACHE: "redis://core-cache.masterclaw.svc:6379",
}


def document(ttl: str = "10m", previous: PolicyDocument | None = None, now_ms: int = 1_000) -> PolicyDocument:
    spec = CachePolicySpec.model_validate(
        {"redis": {"managed": {}}, "sessions": {}, "responseCache": {"ttl": ttl}, "purge": {"all": "1"}}
    )
    return build_document(
        namespace="masterclaw",
        name="core",
        uid="u1",
        spec=spec,
        endpoints=ENDPOINTS,
        previous=previous,
        now_ms=now_ms,
    )


def content(**changes: Any) -> bytes:
    return json.dumps(json.loads(document().to_json()) | changes).encode()


def test_a_document_reads_back_as_it_was_written() -> None:
    assert read_document(document().to_json().encode()).document == document()


def test_the_document_says_what_it_requires_and_fills_in_defaults() -> None:
    assert document().requires == ("sessions", "responseCache", "purge")
    assert json.loads(document().to_json())["sessions"]["idleTimeout"] == "30m"


def test_the_same_content_keeps_revision_and_sequence() -> None:
    assert document(previous=document(), now_ms=9_000) == document()


def test_changed_content_has_another_revision_and_a_higher_sequence_even_when_the_clock_went_back() -> None:
    before = document(now_ms=5_000)
    after = document(ttl="11m", previous=before, now_ms=1_000)
    assert after.revision != before.revision
    assert after.sequence == 5_001


def test_unknown_optional_fields_are_left_out_and_named() -> None:
    raw = json.loads(content(newSection={"a": 1}))
    raw["responseCache"]["compress"] = {"above": "1Ki"}
    reading = read_document(json.dumps(raw).encode())
    assert reading.ignored == ("newSection", "responseCache.compress")
    assert reading.document == document()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "policy.json is empty"),
        (b"  \n", "policy.json is empty"),
        (content()[:200], "cut off or not JSON"),
        (b"[]", "must hold one JSON object"),
        (b"{}", "no field contract"),
        (content(contract="2.0"), "follows contract '2.0' and this runtime reads 1.x"),
        (content(requires=["sessions", "teleport"]), "requires teleport, which this runtime lacks"),
        (content(requires="sessions"), "requires must be a list"),
        (content(sessions={"idleTimeout": "soon"}), "sessions.idleTimeout: 'soon' is not a duration"),
        (content(redis={"keyPrefix": "a/b", "state": {"url": "redis://u:p@h:1"}}), "must not hold a user"),
        (
            content(redis={"keyPrefix": "a/b", "state": {"url": "http://h"}}),
            "must start with one of redis://",
        ),
        (
            content(redis={"keyPrefix": "a/b", "state": {"url": "redis+cluster://h:1,i:1"}}),
            "redis.state: must not be a Redis Cluster: sessions and limits have keys in several slots",
        ),
        (
            content(redis={"keyPrefix": "a/b", "cache": {"url": "rediss+sentinel://:p@h:1/main"}}),
            "must not hold a user",
        ),
    ],
)
def test_a_document_that_cannot_be_enforced_is_refused_with_what_to_change(
    data: bytes, sentence: str
) -> None:
    with pytest.raises(DocumentError) as caught:
        read_document(data)
    assert sentence in str(caught.value)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("url", ["redis+sentinel://h:26379,i/main/0", "rediss+cluster://h:1,i:1"])
def test_a_server_may_be_named_by_whom_to_ask_for_it(url: str) -> None:
    document = read_document(content(redis={"keyPrefix": "a/b", "cache": {"url": url}})).document
    assert document.redis.cache == Endpoint(url=url)


def test_an_acknowledgement_reads_back_and_damage_is_not_one() -> None:
    one = Acknowledgement("r", 1, "1.0", ("sessions",), ("x",), "c", "requires teleport", True)
    assert Acknowledgement.from_json(one.to_json()) == one
    for damage in (b"", b"{}", b"[]", b"null", b'{"revision": 1, "sequence": "x", "contract": 1}'):
        assert Acknowledgement.from_json(damage) is None


def test_a_member_names_pod_process_and_nonce() -> None:
    assert Member.parse(str(Member("core-0", 7, "ab"))) == Member("core-0", 7, "ab")
    assert Member.parse("core-0/x/ab") is None
