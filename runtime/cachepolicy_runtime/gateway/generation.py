"""Routes that ask a model for text: OpenAI's chat completions, completions and responses, Anthropic's messages."""

from __future__ import annotations

from fastapi import Request, Response

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.gateway.asking import Asked
from cachepolicy_runtime.gateway.responding import outcome_response
from cachepolicy_runtime.responses import Outcome
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.streams import ByteStream
from cachepolicy_runtime.upstream import Upstream

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


class Generation:
    """Answers one path: out of the cache, else by the provider at the same path."""

    def __init__(self, runtime: CacheRuntime, upstream: Upstream, path: str) -> None:
        self._runtime = runtime
        self._responses = runtime.responses
        self._spending = runtime.spending
        self.upstream = upstream
        self._path = path

    async def answer(self, request: Request) -> Response:
        return outcome_response(await self.outcome(await Asked.by(request, self._runtime)))

    async def outcome(self, asked: Asked) -> Outcome[Answer | ByteStream]:
        """The answer and where it came from."""
        request = asked.to(self.upstream, self._path)

        async def call() -> Answer | ByteStream:
            return await self._spending.call(request, self.upstream.send, identity=asked.identity)

        return await self._responses.get_or_call(
            request,
            call,
            provider=self.upstream.provider,
            identity=asked.identity,
            tags=self._responses.tags_in(asked.headers),
        )
