"""Routes that are passed on to the provider uncached: what they answer costs no tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request, Response

from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.gateway.asking import Asked, caller, forwarded
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.upstream import Upstream

MODELS = "/v1/models"
COUNT_TOKENS = "/v1/messages/count_tokens"


def posted(runtime: CacheRuntime, upstream: Upstream, path: str) -> Callable[[Request], Awaitable[Response]]:
    """A handler that asks the provider what it was asked."""

    async def answer(request: Request) -> Response:
        asked = await Asked.by(request, runtime)
        return _response(await upstream.post(asked.to(upstream, path)))

    return answer


class Models:
    """``/v1/models``, of the provider whose API the caller speaks: Anthropic's clients name a version."""

    def __init__(self, runtime: CacheRuntime, openai: Upstream | None, anthropic: Upstream | None) -> None:
        self._runtime = runtime
        self._openai = openai
        self._anthropic = anthropic

    async def answer(self, request: Request) -> Response:
        await caller(self._runtime, request)
        speaks = "anthropic-version" in request.headers
        first, second = (self._anthropic, self._openai) if speaks else (self._openai, self._anthropic)
        upstream = first or second
        assert upstream is not None  # noqa: S101 - create_app wants one of them
        path = f"{MODELS}?{request.url.query}" if request.url.query else MODELS
        return _response(await upstream.get(path, forwarded(upstream, request.headers)))


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers))
