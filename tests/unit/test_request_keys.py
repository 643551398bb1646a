"""The key of a request: equal for one meaning, different for two."""

from __future__ import annotations

import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.caches import SECRET

from cachepolicy_runtime.keys import (
    IGNORED_FIELDS,
    LISTED_HEADERS,
    CacheSecret,
    NotCanonicalError,
    UpstreamRequest,
    canonical_json,
    response_digest,
    upstream_place,
)
from cachepolicy_runtime.macs import Mac, framed

URL = "https://api.openai.com/v1/chat/completions"
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(-1e18, 1e18, allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def digest(
    body: dict[str, Any] = BODY,
    *,
    scope: str = "acme",
    provider: str = "openai",
    url: str = URL,
    headers: dict[str, str] | None = None,
    secret: CacheSecret = SECRET,
) -> str:
    return response_digest(secret, scope, provider, UpstreamRequest(url, body, headers or {}))


def shuffled(value: Any) -> Any:
    """The same value with all keys in the opposite order and whole floats for small integers."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    if isinstance(value, list):
        return [shuffled(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    return value


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: True is not 1, 1.0 is 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@given(values)
def test_key_order_and_spelling_of_numbers_do_not_count(value: Any) -> None:
    """RFC 8785: one text for all spellings of one value."""
    assert canonical_json(shuffled(value)) == canonical_json(value)


@given(values)
def test_canonical_text_is_a_fixed_point_and_says_the_same(value: Any) -> None:
    """Reading the canonical text gives the same value, and its canonical text is itself."""
    text = canonical_json(value)
    assert same(json.loads(text), value)
    assert canonical_json(json.loads(text)) == text


@given(values, values)
def test_two_values_have_two_texts(left: Any, right: Any) -> None:
    """No two different values share a text."""
    assert (canonical_json(left) == canonical_json(right)) == same(left, right)


@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_parts_do_not_run_into_each_other(left: list[bytes], right: list[bytes]) -> None:
    """Length-prefixed parts: ("ab", "c") and ("a", "bc") differ."""
    assert (framed(*left) == framed(*right)) == (left == right)


@pytest.mark.parametrize("name", sorted(IGNORED_FIELDS))
def test_ignored_fields_do_not_count(name: str) -> None:
    """The deny-list: fields that change nothing in the answer."""
    assert digest({**BODY, name: "anything"}) == digest()


@pytest.mark.parametrize("name", sorted(IGNORED_FIELDS))
def test_fields_of_that_name_deeper_down_do_count(name: str) -> None:
    """A message may well have a field called ``user``."""
    deep = {**BODY, "messages": [{"role": "user", "content": "Hi", name: "x"}]}
    assert digest(deep) != digest()


@given(st.text(min_size=1, max_size=12).filter(lambda name: name not in IGNORED_FIELDS | BODY.keys()))
def test_a_field_that_nobody_knows_yet_counts(name: str) -> None:
    """An allow-list would serve the wrong answer when a provider adds a parameter."""
    try:
        changed = digest({**BODY, name: True})
    except NotCanonicalError:
        return
    assert changed != digest()


def test_stream_false_says_what_its_absence_says() -> None:
    """SDKs differ in whether they write it."""
    assert digest({**BODY, "stream": False}) == digest({**BODY, "stream": None}) == digest()


@pytest.mark.parametrize("changed", ["scope", "provider", "url", "secret"])
def test_everything_around_the_body_counts(changed: str) -> None:
    """Tenant, provider, upstream and HMAC key each make another key."""
    other: dict[str, Any] = {
        "scope": "other",
        "provider": "azure",
        "url": "https://api.openai.com/v2/chat/completions",
        "secret": CacheSecret.derive(b"another key of a test, as long"),
    }
    assert digest(**{changed: other[changed]}) != digest()


@pytest.mark.parametrize("name", LISTED_HEADERS)
def test_listed_headers_count_in_any_case(name: str) -> None:
    """They change answers (an API version, a project's settings)."""
    assert digest(headers={name: "1"}) != digest()
    assert digest(headers={name.title(): "1 "}) == digest(headers={name: "1"})


def test_other_headers_do_not_count() -> None:
    """Neither a caller's own key nor a trace makes an answer another one; the tenant is in the key itself."""
    assert digest(headers={"Authorization": "Bearer x", "traceparent": "00-1"}) == digest()


def test_case_and_spaces_of_a_prompt_count() -> None:
    """Nothing is lower-cased or trimmed."""
    prompts = ["Hi", "hi", "Hi ", "Hi\n"]
    digests = {digest({**BODY, "messages": [{"role": "user", "content": prompt}]}) for prompt in prompts}
    assert len(digests) == len(prompts)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("HTTPS://API.Example.com:443/v1?api-version=2", "https://api.example.com/v1?api-version=2"),
        ("http://api.example.com:8080", "http://api.example.com:8080/"),
        ("https://user:pass@api.example.com/v1#x", "https://api.example.com/v1"),
    ],
)
def test_one_spelling_for_one_upstream(url: str, place: str) -> None:
    """Scheme, host and default port are normalised; a credential in a URL never counts."""
    assert upstream_place(url) == place


@given(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=4))
def test_a_mac_is_hmac_sha256_of_all_chunks(key: bytes, chunks: list[bytes]) -> None:
    """Whatever was hashed ahead, and for keys longer than a block too."""
    expected = hmac.digest(key, b"".join(chunks), "sha256")
    assert Mac(key).digest(*chunks) == Mac(key).after(*chunks[:2]).digest(*chunks[2:]) == expected
    assert Mac(key).digest(*(memoryview(chunk) for chunk in chunks)) == expected
    pairs = [(key, b"".join(chunks)), (b"".join(chunks), b"")]
    assert Mac(key).many(pairs) == [Mac(key).digest(*pair) for pair in pairs]


def test_beginning_a_message_leaves_the_mac_as_it_was() -> None:
    mac = Mac(b"k")
    begun = mac.after(b"a")
    assert begun.digest(b"b") == begun.digest(b"b") == mac.digest(b"ab") != mac.digest(b"b")


def test_a_secret_is_never_shown() -> None:
    """A repr in a log line must not hold a key."""
    assert "naming" not in repr(SECRET)
    assert SECRET.naming.hex() not in repr(SECRET)
