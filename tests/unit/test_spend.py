"""Tokens are set aside before the provider is asked, and counted as they were used when its answer is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from tests.unit.test_metering import CHAT, DONE, TEXTS, USAGE, sse

from cachepolicy import Identity, KeyLayout
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.caller import serve
from cachepolicy_runtime.estimate import DEFAULT_OUTPUT, estimate
from cachepolicy_runtime.keys import UpstreamRequest
from cachepolicy_runtime.ratelimit import ADMISSION, Admitted, Decision, Outcome, Reservation, Subject
from cachepolicy_runtime.spend import LimitedError, Spending, SpendView, answered
from cachepolicy_runtime.streams import ByteStream
from cachepolicy_runtime.usage import Usage

ALICE = Identity("acme", "alice")
BODY: dict[str, Any] = {"model": "gpt-x", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
URL = "https://provider/v1/chat/completions"
GUESS = estimate(BODY)
REFUSED = Decision(Outcome.LIMITED)
ADMITTED = Decision(Outcome.ADMITTED)


class Limiter:
    """Takes down what is asked of it. ``refuses`` has no room for anything."""

    def __init__(self, *, refuses: bool = False, tokens: bool = True) -> None:
        self.refuses = refuses
        self.tokens = tokens
        self.asked: list[tuple[Subject, Usage, Admitted | None]] = []
        self.done: list[Usage | str] = []
        self.began = asyncio.Event()

    async def reserve(
        self, limits: Any, keys: Any, subject: Subject, guess: Usage, admitted: Admitted | None = None
    ) -> Any:
        self.asked.append((subject, guess, admitted))
        return REFUSED if self.refuses else SimpleNamespace(decision=ADMITTED, tokens=self.tokens)

    async def settle(self, reserved: Reservation, spent: Usage) -> None:
        self.began.set()
        await asyncio.sleep(0)
        self.done.append(spent)

    async def refund(self, reserved: Reservation) -> None:
        await asyncio.sleep(0)
        self.done.append("refund")


class Given:
    """A provider's stream of these chunks; an exception among them is raised."""

    headers: Mapping[str, str] = {"content-type": "text/event-stream"}

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = chunks
        self.closed = False

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def aclose(self) -> None:
        self.closed = True


class Bench:
    """A spending phase over ``limiter``, for a provider that answers ``given``."""

    def __init__(
        self, limiter: Limiter, *given: Answer | ByteStream | BaseException, spends: bool = True
    ) -> None:
        view = SpendView(
            cast(Any, SimpleNamespace(spends=spends)), KeyLayout("shop/core"), cast(Any, limiter)
        )
        self.spending = Spending(lambda: view)
        self.limiter = limiter
        self.given = given[0]
        self._given = list(given)
        self.sent: list[UpstreamRequest] = []
        self.scope: dict[str, Any] = {"type": "http"}

    async def send(self, request: UpstreamRequest) -> Answer | ByteStream:
        """Each answer once, the last one for ever."""
        self.sent.append(request)
        given = self._given.pop(0) if len(self._given) > 1 else self._given[0]
        if isinstance(given, BaseException):
            raise given
        return given

    async def call(self, url: str = URL, **more: Any) -> Answer | ByteStream:
        """As the work of a request with this scope."""
        request = UpstreamRequest(url, {**BODY, **more})
        got: list[Answer | ByteStream] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            got.append(await self.spending.call(request, self.send, identity=ALICE))

        await serve(app, self.scope, cast(Any, None), cast(Any, None))
        return got[0]

    async def read(self, **more: Any) -> bytes:
        """A stream to its end."""
        stream = await self.call(stream=True, **more)
        assert not isinstance(stream, Answer)
        got = b"".join([chunk async for chunk in stream.chunks()])
        await stream.aclose()
        return got

    async def done(self) -> list[Usage | str]:
        await self.spending.aclose()
        return self.limiter.done


def answer(status: int = 200, **body: Any) -> Answer:
    return Answer(status, orjson.dumps(body))


async def test_an_answer_is_counted_by_its_usage() -> None:
    """And set aside by the guess, for who asked and for the model."""
    told = {"prompt_tokens": 7, "completion_tokens": 3}
    bench = Bench(Limiter(), answer(usage=told))
    assert await bench.call() is bench.given
    assert await bench.done() == [Usage(7, 0, 3)]
    ((subject, guess, admitted),) = bench.limiter.asked
    assert (subject.identity, subject.model, guess, admitted) == (ALICE, "gpt-x", GUESS, None)
    assert bench.sent[0].body == BODY


async def test_an_answer_without_usage_is_counted_by_its_length() -> None:
    """Its output not beyond what was asked for at most."""
    bench = Bench(Limiter(), answer(text="x" * 100))
    await bench.call()
    assert await bench.done() == [Usage(GUESS.input, 0, -(-len(b'{"text":"' + b"x" * 100 + b'"}') // 4))]
    long = Bench(Limiter(), answer(text="x" * 1000))
    await long.call()
    assert await long.done() == [GUESS]


@pytest.mark.parametrize("status", [400, 429, 500])
async def test_an_error_of_the_provider_costs_nothing(status: int) -> None:
    bench = Bench(Limiter(), answer(status, error={}))
    await bench.call()
    assert await bench.done() == ["refund"]


async def test_no_answer_costs_nothing() -> None:
    bench = Bench(Limiter(), ValueError("away"))
    with pytest.raises(ValueError, match="away"):
        await bench.call()
    assert await bench.done() == ["refund"]


async def test_a_caller_that_goes_has_let_the_provider_read_its_input() -> None:
    """Else whoever hangs up early would be served for nothing."""
    bench = Bench(Limiter(), asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await bench.call()
    assert await bench.done() == [Usage(GUESS.input)]


async def test_a_refusal_never_reaches_the_provider() -> None:
    bench = Bench(Limiter(refuses=True), answer())
    with pytest.raises(LimitedError) as caught:
        await bench.call()
    assert caught.value.decision is REFUSED
    assert (bench.sent, await bench.done()) == ([], [])


async def test_without_such_limits_nothing_is_asked_and_nothing_changed() -> None:
    bench = Bench(Limiter(), Given(CHAT), spends=False)
    assert await bench.call(stream=True) is bench.given
    assert bench.limiter.asked == []


async def test_a_stream_is_asked_for_its_usage_and_its_caller_does_not_see_it() -> None:
    """Options that the caller gave are kept."""
    bench = Bench(Limiter(), Given(TEXTS[:50], TEXTS[50:] + USAGE[:9], USAGE[9:] + DONE))
    assert await bench.read(stream_options={"include_obfuscation": False}) == TEXTS + DONE
    assert bench.sent[0].body["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert await bench.done() == [Usage(10, 2, 5)]


async def test_a_caller_that_asks_for_usage_sees_it() -> None:
    bench = Bench(Limiter(), Given(CHAT))
    assert await bench.read(stream_options={"include_usage": True}) == CHAT
    assert await bench.done() == [Usage(10, 2, 5)]


@pytest.mark.parametrize(
    ("url", "limiter"),
    [
        ("https://provider/v1/messages", Limiter()),
        ("https://provider/v1/responses", Limiter()),
        (URL, Limiter(tokens=False)),
    ],
    ids=["messages", "responses", "no tokens"],
)
async def test_only_streams_that_must_be_asked_are_asked(url: str, limiter: Limiter) -> None:
    """The other APIs would refuse the field, and limits that count no tokens need no usage."""
    bench = Bench(limiter, Given(CHAT))
    await bench.call(url, stream=True)
    assert "stream_options" not in bench.sent[0].body


@pytest.mark.parametrize("status", [400, 422])
async def test_a_provider_that_refuses_the_question_is_not_asked_it(status: int) -> None:
    """The caller never sent that field; any other refusal is his."""
    refusal = answer(status, error={"message": "unknown field stream_options"})
    bench = Bench(Limiter(), refusal, Given(TEXTS + DONE))
    assert await bench.read() == TEXTS + DONE
    assert ["stream_options" in request.body for request in bench.sent] == [True, False]
    assert await bench.done() == [Usage(GUESS.input, 0, 3)]
    other = Bench(Limiter(), answer(status, error={"message": "unknown model"}))
    assert await other.call(stream=True) is other.given
    assert (len(other.sent), await other.done()) == (1, ["refund"])


async def test_a_settlement_goes_on_when_its_caller_is_cancelled_meanwhile() -> None:
    bench = Bench(Limiter(), answer(usage={"prompt_tokens": 7, "completion_tokens": 3}))
    working = asyncio.create_task(bench.call())
    await bench.limiter.began.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert await bench.done() == [Usage(7, 0, 3)]


async def test_a_stream_without_usage_is_counted_by_what_came() -> None:
    bench = Bench(Limiter(), Given(TEXTS + DONE))
    assert await bench.read() == TEXTS + DONE
    assert await bench.done() == [Usage(GUESS.input, 0, 3)]


@pytest.mark.parametrize("chunks", [(TEXTS,), (TEXTS[:-20],)], ids=["event by event", "in the middle of one"])
async def test_a_stream_that_is_left_is_counted_by_what_came(chunks: tuple[bytes, ...]) -> None:
    """Once, however it is closed."""
    bench = Bench(Limiter(), Given(*chunks, USAGE + DONE))
    stream = await bench.call(stream=True)
    assert not isinstance(stream, Answer)
    reading = stream.chunks()
    await anext(reading)
    await stream.aclose()
    await stream.aclose()
    (spent,) = await bench.done()
    assert isinstance(spent, Usage)
    assert spent.input == GUESS.input
    assert 0 < spent.output <= 3
    assert cast(Given, bench.given).closed


async def test_a_stream_that_nobody_began_to_read_cost_its_input() -> None:
    bench = Bench(Limiter(), Given(CHAT))
    stream = await bench.call(stream=True)
    assert not isinstance(stream, Answer)
    await stream.aclose()
    assert await bench.done() == [Usage(GUESS.input)]


async def test_anthropics_count_of_the_input_holds_where_its_stream_breaks() -> None:
    """It comes first; of the output what came counts, where that is more than was told."""
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}
    text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 40}}
    bench = Bench(Limiter(), Given(sse(start, text, names=True), ConnectionResetError()))
    with pytest.raises(ConnectionResetError):
        await bench.read()
    assert await bench.done() == [Usage(9, 0, 10)]


async def test_a_stream_that_ends_before_its_count_is_no_whole_answer() -> None:
    """A proxy on the way may close it as if that were all."""
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}
    text = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x" * 40}}
    bench = Bench(Limiter(), Given(sse(start, text, names=True)))
    await bench.read()
    assert await bench.done() == [Usage(9, 0, 10)]


async def test_a_client_that_stops_reading_at_the_end_pays_what_was_told() -> None:
    """SDKs close a stream when they see [DONE] or message_stop."""
    bench = Bench(Limiter(), Given(TEXTS + USAGE, DONE))
    stream = await bench.call(stream=True)
    assert not isinstance(stream, Answer)
    reading = stream.chunks()
    await anext(reading)
    await stream.aclose()
    assert await bench.done() == [Usage(10, 2, 5)]


async def test_embeddings_have_no_output() -> None:
    bench = Bench(Limiter(), answer(usage={"prompt_tokens": 2, "total_tokens": 2}))
    await bench.call("https://provider/v1/embeddings", messages=None, input=["a"])
    assert bench.limiter.asked[0][1].output == 0
    assert await bench.done() == [Usage(2)]


async def test_a_request_without_a_bound_is_guessed_to_be_of_usual_length() -> None:
    bench = Bench(Limiter(), answer())
    await bench.call(max_tokens=None)
    assert bench.limiter.asked[0][1].output == DEFAULT_OUTPUT


async def test_what_was_admitted_is_given_back_only_while_nothing_was_answered() -> None:
    """A stale entry is refreshed after its request was answered: that request was counted rightly."""
    bench = Bench(Limiter(), answer())
    admitted = Admitted(Subject("POST", "/v1/chat/completions", "192.0.2.1"), ADMITTED)
    bench.scope[ADMISSION] = admitted
    await bench.call()
    assert answered(bench.scope) is ADMITTED
    await bench.call()
    first, second = bench.limiter.asked
    assert (first[2], second[2]) == (admitted, None)
    assert first[0] == second[0]
    assert (first[0].ip, first[0].identity, first[0].model) == ("192.0.2.1", ALICE, "gpt-x")


async def test_a_request_that_spent_nothing_has_nothing_to_tell() -> None:
    assert answered({}) is None
    assert answered(None) is None
