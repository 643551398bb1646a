"""One request of an SDK, on its way to the provider: cached, coalesced and limited, whatever HTTP library sends it.

Only requests that are known to be answered whole are looked at: JSON posted to the chat, completion, response,
message and embedding APIs. Everything else is none of our business and passes as it is. So does what an SDK says
about who calls: that comes from the runtime, never from a header.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from cachepolicy.identity import Identity
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.caching import CACHE_NAME
from cachepolicy_runtime.caller import acting_as
from cachepolicy_runtime.clients.bridge import NotRunningError
from cachepolicy_runtime.clients.refusals import NO_RETRY, refusal, unusable
from cachepolicy_runtime.embedding_calls import EmbeddingRequest, ProviderRefusedError
from cachepolicy_runtime.embeddings import EmbeddingError
from cachepolicy_runtime.freshness import asked_for
from cachepolicy_runtime.keys import UpstreamRequest
from cachepolicy_runtime.spend import LimitedError, Spending
from cachepolicy_runtime.streams import ByteStream

if TYPE_CHECKING:  # runtime.py makes these
    from cachepolicy_runtime.runtime import CacheRuntime

#: Ends of the paths whose answers may be kept. Assistants keep messages under ``…/threads/…/messages``, so that
#: one is told by its version.
_GENERATIONS = ("/chat/completions", "/completions", "/responses", "/v1/messages")
_EMBEDDINGS = "/embeddings"
_PATHS = (*_GENERATIONS, _EMBEDDINGS)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as the HTTP library is about to send it; names of headers in lower case."""

    url: str
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back to the SDK, and the headers that are added to it."""

    answer: Answer | ByteStream
    headers: Mapping[str, str] = field(default_factory=dict)


#: Sends a body in place of the request's own and returns the whole answer, or the stream that it is.
Forward = Callable[[bytes], Awaitable[Answer | ByteStream]]


def of_interest(method: str, path: str) -> bool:
    """Whether a request is one whose answer may be kept, or whose tokens count, as long as it is JSON."""
    return method == "POST" and path.endswith(_PATHS)


def is_json(headers: Mapping[str, str]) -> bool:
    """Names in lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


class Exchange:
    """Answers requests for one provider, on behalf of ``identity``, else of whoever the running code serves."""

    def __init__(self, runtime: CacheRuntime, provider: str, identity: Identity | None) -> None:
        self._runtime = runtime
        self._provider = provider
        self._identity = identity
        self._responses = runtime.responses
        self._embeddings = runtime.embeddings
        self._spending = runtime.spending

    async def answer(self, sent: Sent, path: str, forward: Forward) -> Reply:
        """The cached answer, else the provider's. What ``forward`` raises passes through."""
        self._at_home()
        body = _object(sent.content)
        if body is None:
            return Reply(
                await forward(sent.content), {"Cache-Status": f"{CACHE_NAME}; fwd=bypass; detail=body"}
            )
        who = self._identity or await self._runtime.caller()
        request = UpstreamRequest(
            sent.url, body, sent.headers, cache_control=sent.headers.get("cache-control", "")
        )
        calling = _Calling(self._spending, request, sent.content, forward, who)
        try:
            if path.endswith(_EMBEDDINGS):
                return await self._embedded(request, calling, who)
            return await self._generated(request, calling, who)
        except LimitedError as error:
            return Reply(refusal(error.decision))
        finally:
            calling.answered = True

    def _at_home(self) -> None:
        """The stores belong to one event loop, and so does whoever uses them."""
        home = self._runtime.loop
        if home is not None and home is not asyncio.get_running_loop():
            raise NotRunningError(
                "this client belongs to the event loop that the runtime runs on: use runtime.thread_client(…), or "
                "a runtime of this loop's own"
            )

    async def _generated(self, request: UpstreamRequest, calling: _Calling, who: Identity | None) -> Reply:
        outcome = await self._responses.get_or_call(
            request,
            calling.send,
            provider=self._provider,
            identity=who,
            tags=self._responses.tags_in(request.headers),
        )
        if asked_for(request.cache_control).only_if_cached and not outcome.hit:
            return Reply(
                outcome.answer, {**outcome.headers, **NO_RETRY}
            )  # it would be no other a second later
        return Reply(outcome.answer, outcome.headers)

    async def _embedded(self, request: UpstreamRequest, calling: _Calling, who: Identity | None) -> Reply:
        asked = EmbeddingRequest.parse(request.body)
        if asked is None:
            told = f"{CACHE_NAME}; fwd=bypass; detail=input"
            return Reply(await calling.send(), {"Cache-Status": told})
        try:
            embedded, listing = await asked.answered(
                self._embeddings, calling.send_body, provider=self._provider, identity=who
            )
        except ProviderRefusedError as error:
            return Reply(error.answer, {"Cache-Status": f"{CACHE_NAME}; fwd=miss"})
        except EmbeddingError as error:
            return Reply(unusable(str(error)))
        answer = Answer(200, orjson.dumps(listing), {"content-type": "application/json"})
        return Reply(answer, {"Cache-Status": embedded.cache_status})


class _Calling:
    """Sends to the provider what the policy's spend limits let through."""

    def __init__(
        self,
        spending: Spending,
        request: UpstreamRequest,
        content: bytes,
        forward: Forward,
        who: Identity | None,
    ) -> None:
        self._spending = spending
        self._request = request
        self._content = content
        self._forward = forward
        self._who = who
        self.answered = False

    async def send(self) -> Answer | ByteStream:
        with self._on_behalf():
            return await self._spending.call(self._request, self._sent, identity=self._who)

    async def send_body(self, body: Mapping[str, Any]) -> Answer:
        """For a part of the request; never a stream."""
        part = UpstreamRequest(self._request.url, body, self._request.headers)
        with self._on_behalf():
            answer = await self._spending.call(part, self._sent, identity=self._who)
        if isinstance(answer, Answer):
            return answer
        await answer.aclose()
        raise EmbeddingError("the provider streamed its embeddings")

    def _on_behalf(self) -> AbstractContextManager[None]:
        """Once the answer is out (from a stale entry), the caller's request is over: nothing of it can be given
        back any more.
        """
        return acting_as(self._who) if self.answered else nullcontext()

    async def _sent(self, request: UpstreamRequest) -> Answer | ByteStream:
        """The SDK's own bytes where they say what is sent, for a signature may have been made over them."""
        same = request.body is self._request.body
        return await self._forward(self._content if same else orjson.dumps(request.body))


def _object(content: bytes) -> dict[str, Any] | None:
    """The body as the provider will read it; None where it is no JSON object or names a field twice, which
    different parsers read differently. What orjson would write the same way cannot hold a field twice.
    """
    try:
        body = orjson.loads(content)
        if not isinstance(body, dict):
            return None
        if orjson.dumps(body) != content:
            json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return body


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is named twice")
    return fields
