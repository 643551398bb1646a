"""Core as an ASGI application: which handler answers which path, and what surrounds them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from fastapi import FastAPI, Response

from cachepolicy_runtime.apikeys import ApiKeys
from cachepolicy_runtime.asgi.ratelimit import RateLimitMiddleware
from cachepolicy_runtime.asgi.sessions import SessionMiddleware
from cachepolicy_runtime.asgi.types import App, Message, Receive, Scope, Send
from cachepolicy_runtime.gateway.embeddings import EMBEDDINGS, EmbeddingRoute
from cachepolicy_runtime.gateway.errors import refusal_body, shape_errors
from cachepolicy_runtime.gateway.generation import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Generation
from cachepolicy_runtime.gateway.passing import COUNT_TOKENS, MODELS, Models, posted
from cachepolicy_runtime.gateway.responding import json_response
from cachepolicy_runtime.gateway.sessions import ONE_OF_SESSIONS, SESSION, SESSIONS, SessionRoutes
from cachepolicy_runtime.gateway.warming import CachedRoute, Warming
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.upstream import Upstream, anthropic_from_env, openai_from_env

#: No limit applies to probes, nor to the health that they may look at.
PROBES = ("/healthz", "/readyz", "/cache/health")


def create_app(
    environ: Mapping[str, str] = os.environ, *, transport: httpx.AsyncBaseTransport | None = None
) -> FastAPI:
    """Core as an ASGI application. Raises ``ValueError`` naming the variable that is wrong.

    ``transport`` reaches the provider otherwise than by the network (for tests).
    """
    keys = ApiKeys.from_path(environ.get("CACHEPOLICY_API_KEYS_FILE"))
    openai, anthropic = upstreams = (
        openai_from_env(environ, transport),
        anthropic_from_env(environ, transport),
    )
    if not any(upstreams):
        raise ValueError(
            "set CACHEPOLICY_UPSTREAM_URL or CACHEPOLICY_ANTHROPIC_URL: there is no provider to ask"
        )
    runtime = CacheRuntime.from_env(identify=keys.identify, environ=environ)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for upstream in filter(None, upstreams):
                await stack.enter_async_context(upstream)
            await stack.enter_async_context(runtime.lifespan(app))
            yield

    app = FastAPI(title="Core", lifespan=lifespan, openapi_url=None)
    app.state.runtime = runtime
    cached = _cached_routes(runtime, openai, anthropic)
    for method, path, answer in _routes(runtime, cached, openai, anthropic):
        app.add_api_route(path, answer, methods=[method], response_model=None)
    warming = Warming(cached)
    app.mount("/cache", runtime.endpoints(warm=warming.warm, resolve=warming.resolve))
    shape_errors(app)
    # The last one added is the outermost.
    app.add_middleware(SessionMiddleware, runtime=runtime)
    app.add_middleware(RateLimitMiddleware, runtime=runtime, exempt=PROBES, refusal=refusal_body)
    app.add_middleware(ServedBy, name=environ.get("POD_NAME") or f"pid-{os.getpid()}")
    return app


Route = tuple[str, str, Callable[..., Awaitable[Response]]]


def _cached_routes(
    runtime: CacheRuntime, openai: Upstream | None, anthropic: Upstream | None
) -> dict[str, CachedRoute]:
    """By path. Those of a provider that is not configured are not there."""
    routes: dict[str, CachedRoute] = {}
    if openai is not None:
        routes |= {path: Generation(runtime, openai, path) for path in (CHAT, COMPLETIONS, RESPONSES)}
        routes[EMBEDDINGS] = EmbeddingRoute(runtime, openai)
    if anthropic is not None:
        routes[MESSAGES] = Generation(runtime, anthropic, MESSAGES)
    return routes


def _routes(
    runtime: CacheRuntime,
    cached: Mapping[str, CachedRoute],
    openai: Upstream | None,
    anthropic: Upstream | None,
) -> Iterator[Route]:
    """Method, path and handler."""
    for path, route in cached.items():
        yield "POST", path, route.answer
    if anthropic is not None:
        yield "POST", COUNT_TOKENS, posted(runtime, anthropic, COUNT_TOKENS)
    yield "GET", MODELS, Models(runtime, openai, anthropic).answer
    sessions = SessionRoutes(runtime)
    yield "GET", SESSION, sessions.read
    yield "PUT", SESSION, sessions.write
    yield "DELETE", SESSION, sessions.end
    yield "GET", SESSIONS, sessions.list_all
    yield "DELETE", SESSIONS, sessions.end_all
    yield "DELETE", ONE_OF_SESSIONS, sessions.end_one
    for path in ("/healthz", "/readyz"):
        yield "GET", path, _alive


async def _alive() -> Response:
    """Core answers as long as it runs: without Redis it works with less, which /cache/health tells."""
    return json_response({"status": "ok"})


class ServedBy:
    """Names the replica in every answer: which one it was shows that they share one state."""

    def __init__(self, app: App, *, name: str) -> None:
        self._app = app
        self._header = (b"x-served-by", name.encode("ascii", "replace"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._header]
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)
