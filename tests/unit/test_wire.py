"""The Redis protocol: what is said and what is understood, in whatever pieces it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachepolicy_runtime.store.failures import ErrorReply
from cachepolicy_runtime.store.wire import Parser, ProtocolError, Reply, pack, script_head

SCALARS = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.binary(max_size=40),
    st.sampled_from([ErrorReply("ERR"), ErrorReply("OOM"), b"\r\n", b"$5\r\n", b"x" * 70_000]),
)
REPLIES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.lists(st.integers(), max_size=8), max_leaves=20
)


def encode(reply: Reply) -> bytes:
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))
        case ErrorReply():
            return b"-%b some text\r\n" % reply.code.encode()


@given(st.lists(REPLIES, max_size=6), st.data())
def test_replies_are_the_same_in_whatever_pieces_they_come(replies: list[Reply], data: st.DataObject) -> None:
    stream = b"".join(map(encode, replies))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    parser, found = Parser(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[start:end])
    assert found == replies


def test_a_long_value_may_end_between_any_two_bytes() -> None:
    value = b"x" * 100_000
    stream = encode([1, value, b"after"]) + encode(7)
    for cut in range(len(stream) - 40, len(stream)):
        parser = Parser()
        assert parser.feed(stream[:50]) == []
        assert parser.feed(stream[50:cut]) + parser.feed(stream[cut:]) == [[1, value, b"after"], 7]


@pytest.mark.parametrize("stream", [b"HTTP/1.1 400 Bad Request\r\n", b"$x\r\n", b":\r\n", b"*one\r\n"])
def test_what_is_no_redis_protocol_is_refused(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        Parser().feed(stream)


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"ERR unknown command 'x'", ErrorReply("ERR")),
        (b"NOSCRIPT No matching script", ErrorReply("NOSCRIPT")),
        (b"MOVED 3999 127.0.0.1:6381", ErrorReply("MOVED", where="3999 127.0.0.1:6381")),
        (b"OOM command not allowed, on @user_script:7.", ErrorReply("OOM", "user_script:7")),
        (b"something that is no code", ErrorReply("ERR")),
        (b"\xff\xfe", ErrorReply("ERR")),
    ],
)
def test_of_an_error_its_code_is_kept_and_not_its_text(line: bytes, reply: ErrorReply) -> None:
    assert Parser().feed(b"-%b\r\n" % line) == [reply]
    assert "127.0.0.1" not in reply.reason + repr(reply)


def test_arguments_are_counted_in_bytes() -> None:
    assert pack(("SET", "é", b"\x00\r\n", -5)) == (
        b"*4\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$3\r\n\x00\r\n\r\n$2\r\n-5\r\n"
    )


def test_the_head_of_a_script_call_is_what_packing_it_gives() -> None:
    sha = "a" * 40
    whole = pack(("EVALSHA", sha, 2, "k1", "k2", "v"))
    assert whole.startswith(script_head(sha, 2, 1))
    assert whole.removeprefix(script_head(sha, 2, 1)) == b"$2\r\nk1\r\n$2\r\nk2\r\n$1\r\nv\r\n"
