"""``/v1/embeddings``: each text or list of tokens for itself, out of the cache or by the provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.caching import CACHE_NAME
from cachepolicy_runtime.embedding_calls import EmbeddingRequest, ProviderRefusedError
from cachepolicy_runtime.gateway.asking import Asked
from cachepolicy_runtime.gateway.responding import json_response, outcome_response, with_spending
from cachepolicy_runtime.keys import UpstreamRequest
from cachepolicy_runtime.responses import Outcome
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.streams import ByteStream
from cachepolicy_runtime.upstream import Upstream

EMBEDDINGS = "/v1/embeddings"


class EmbeddingRoute:
    """Embeddings cost tokens as generated text does: only those that the provider computes."""

    def __init__(self, runtime: CacheRuntime, upstream: Upstream) -> None:
        self._runtime = runtime
        self._embeddings = runtime.embeddings
        self._spending = runtime.spending
        self.upstream = upstream

    async def answer(self, request: Request) -> Response:
        found = await self.outcome(await Asked.by(request, self._runtime))
        if isinstance(found, Outcome):
            return outcome_response(found)
        content, cache_status = found
        return with_spending(json_response(content, headers={"Cache-Status": cache_status}))

    async def outcome(self, asked: Asked) -> Outcome[Answer | ByteStream] | tuple[dict[str, Any], str]:
        """The body of the answer with its ``Cache-Status``, or the provider's own answer."""

        async def post(body: Mapping[str, Any]) -> Answer:
            request = UpstreamRequest(self.upstream.url(EMBEDDINGS), body)
            answer = await self._spending.call(request, self.upstream.post, identity=asked.identity)
            assert isinstance(answer, Answer)  # noqa: S101 - post() returns nothing else
            return answer

        cacheable = EmbeddingRequest.parse(asked.body)
        if cacheable is None:
            return Outcome(await post(asked.body), False, f"{CACHE_NAME}; fwd=bypass; detail=input")
        try:
            embedded, content = await cacheable.answered(
                self._embeddings, post, provider=self.upstream.provider, identity=asked.identity
            )
        except ProviderRefusedError as error:
            return Outcome(error.answer, False, f"{CACHE_NAME}; fwd=miss")
        return content, embedded.cache_status
