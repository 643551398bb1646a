"""``/v1/chat/completions``."""

from __future__ import annotations

from fastapi import Request, Response

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.gateway.asking import caller, json_object, named_model
from cachepolicy_runtime.gateway.responding import outcome_response
from cachepolicy_runtime.keys import UpstreamRequest
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.upstream import Stream, Upstream

CHAT = "/v1/chat/completions"


class Chat:
    def __init__(self, runtime: CacheRuntime, upstream: Upstream, provider: str) -> None:
        self._runtime = runtime
        self._responses = runtime.responses
        self._upstream = upstream
        self._provider = provider

    async def answer(self, request: Request) -> Response:
        who, body = await caller(self._runtime, request), await json_object(request)
        named_model(body)
        asked = UpstreamRequest(
            self._upstream.url(CHAT), body, cache_control=request.headers.get("cache-control", "")
        )

        async def call() -> Answer | Stream:
            if asked.streaming:
                return await self._upstream.stream(CHAT, body)
            return await self._upstream.post(CHAT, body)

        outcome = await self._responses.get_or_call(asked, call, provider=self._provider, identity=who)
        return outcome_response(outcome)
