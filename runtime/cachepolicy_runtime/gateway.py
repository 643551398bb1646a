"""The reference Core: ``python -m cachepolicy_runtime.gateway``.

An OpenAI-compatible service in front of one provider, built from the public parts of this package: who calls is
known by a bearer key, limits apply before anything else, complete answers and embeddings are cached for the
caller's tenant, streams are passed through, and ``/v1/session`` keeps a JSON object for the caller.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import httpx
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from cachepolicy.identity import Identity
from cachepolicy_runtime import serving
from cachepolicy_runtime.answers import Answer
from cachepolicy_runtime.apikeys import ApiKeys
from cachepolicy_runtime.asgi.ratelimit import RateLimitMiddleware
from cachepolicy_runtime.asgi.sessions import SessionMiddleware
from cachepolicy_runtime.asgi.types import App, BodyTooLargeError, Message, Receive, Scope, Send, read_body
from cachepolicy_runtime.caching import CACHE_NAME
from cachepolicy_runtime.embeddings import Embedded, EmbeddingError, IndexedVector
from cachepolicy_runtime.keys import MAX_MODEL_LENGTH, NotCanonicalError, UpstreamRequest, canonical_json
from cachepolicy_runtime.responses import Outcome
from cachepolicy_runtime.runtime import CacheRuntime
from cachepolicy_runtime.session import Session
from cachepolicy_runtime.upstream import Stream, Upstream, UpstreamError

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
#: No limit applies to probes, nor to the health that they may look at.
PROBES = ("/healthz", "/readyz", "/cache/health")
MAX_BODY_BYTES = 16 * 1024 * 1024

#: Fields of an embeddings request that are in the key by themselves, or change no number.
_EMBEDDING_FIELDS = frozenset({"input", "model", "dimensions", "encoding_format", "user"})
_OWNER, _DATA = "owner", "data"


class RefusedError(Exception):
    """The request is refused with an error in OpenAI's shape."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _ProviderRefusedError(Exception):
    """The provider answered a part of a batch with an error: that is the answer to the whole."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"status {answer.status}")
        self.answer = answer


class Gateway:
    """The handlers under ``/v1``."""

    def __init__(self, runtime: CacheRuntime, upstream: Upstream, provider: str) -> None:
        self._runtime = runtime
        self._responses = runtime.responses
        self._embeddings = runtime.embeddings
        self._upstream = upstream
        self._provider = provider

    async def chat(self, request: Request) -> Response:
        who, body = await self._caller(request), await _object(request)
        _named_model(body)
        asked = UpstreamRequest(
            self._upstream.url(CHAT), body, cache_control=request.headers.get("cache-control", "")
        )

        async def call() -> Answer | Stream:
            if asked.streaming:
                return await self._upstream.stream(CHAT, body)
            return await self._upstream.post(CHAT, body)

        outcome = await self._responses.get_or_call(asked, call, provider=self._provider, identity=who)
        return _response(outcome)

    async def embed(self, request: Request) -> Response:
        who, body = await self._caller(request), await _object(request)
        model, texts = _named_model(body), _texts(body.get("input"))
        other = _other_settings(body)
        if texts is None or other is None:
            answer = await self._upstream.post(EMBEDDINGS, body)
            return _response(Outcome(answer, False, f"{CACHE_NAME}; fwd=bypass; detail=input"))
        call = _EmbedCall(self._upstream, body)
        try:
            embedded = await self._embeddings.get_or_embed(
                texts,
                call,
                model=model,
                identity=who,
                provider=self._provider,
                dimensions=body.get("dimensions"),
                input_type=other or None,
            )
        except _ProviderRefusedError as error:
            return _response(Outcome(error.answer, False, f"{CACHE_NAME}; fwd=miss"))
        content = _embedding_list(
            embedded, model, call.prompt_tokens, body.get("encoding_format") == "base64"
        )
        return _json(content, headers={"Cache-Status": embedded.cache_status})

    async def read_session(self, request: Request) -> Response:
        session = self._session(request)
        who = await self._caller(request)
        return _json(session[_DATA] if _belongs(session, who) else {})

    async def write_session(self, request: Request) -> Response:
        session = self._session(request)
        who, content = await self._caller(request), await _object(request)
        allowed = self._runtime.session_policy
        if allowed is not None and len(orjson.dumps(content)) > allowed.rules.max_bytes.bytes:
            raise RefusedError(413, f"a session holds at most {allowed.rules.max_bytes} (sessions.maxBytes)")
        if not _belongs(session, who):
            session.clear()
            session.bind(who)
            session[_OWNER] = [who.tenant, who.user]
        session[_DATA] = content
        return _json(content)

    async def end_session(self, request: Request) -> Response:
        session = self._session(request)
        if _belongs(session, await self._caller(request)):
            session.destroy()
        return Response(status_code=204)

    def _session(self, request: Request) -> Session:
        session = request.scope.get("session")
        if not isinstance(session, Session):
            raise RefusedError(404, "the policy has no sessions")
        return session

    async def _caller(self, request: Request) -> Identity:
        who = await self._runtime.identity(request.scope)
        if who is None:
            raise RefusedError(401, "send a valid API key as Authorization: Bearer", "invalid_api_key")
        return who


class _EmbedCall:
    """Asks the provider for the texts that the cache does not know, and counts what they cost."""

    def __init__(self, upstream: Upstream, body: Mapping[str, Any]) -> None:
        self._upstream = upstream
        self._body = body
        self.prompt_tokens = 0

    async def __call__(self, texts: list[str]) -> Sequence[IndexedVector]:
        answer = await self._upstream.post(
            EMBEDDINGS, {**self._body, "input": texts, "encoding_format": "float"}
        )
        if answer.status != 200:
            raise _ProviderRefusedError(answer)
        try:
            body = orjson.loads(answer.body)
            vectors = [IndexedVector(int(item["index"]), item["embedding"]) for item in body["data"]]
            self.prompt_tokens += int((body.get("usage") or {}).get("prompt_tokens") or 0)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise EmbeddingError("the provider's answer is not a list of embeddings") from None
        return vectors


class StreamedResponse(StreamingResponse):
    """Passes a stream on chunk by chunk, and closes it even if the caller goes before the first one."""

    def __init__(self, stream: Stream, headers: Mapping[str, str]) -> None:
        # Proxies such as nginx would otherwise collect the events.
        unbuffered = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}
        super().__init__(stream.chunks(), headers={**headers, **unbuffered}, media_type=stream.content_type)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.aclose()


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


def create_app(
    environ: Mapping[str, str] = os.environ, *, transport: httpx.AsyncBaseTransport | None = None
) -> FastAPI:
    """Core as an ASGI application. Raises ``ValueError`` naming the variable that is wrong.

    ``transport`` reaches the provider otherwise than by the network (for tests).
    """
    keys = ApiKeys.from_path(environ.get("CACHEPOLICY_API_KEYS_FILE"))
    upstream = Upstream.from_env(environ, transport)
    runtime = CacheRuntime.from_env(identify=keys.identify, environ=environ)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with upstream, runtime.lifespan(app):
            yield

    app = FastAPI(title="Core", lifespan=lifespan, openapi_url=None)
    app.state.runtime = runtime
    gateway = Gateway(runtime, upstream, environ.get("CACHEPOLICY_PROVIDER") or "openai")
    app.add_api_route(CHAT, gateway.chat, methods=["POST"], response_model=None)
    app.add_api_route(EMBEDDINGS, gateway.embed, methods=["POST"], response_model=None)
    app.add_api_route("/v1/session", gateway.read_session, methods=["GET"], response_model=None)
    app.add_api_route("/v1/session", gateway.write_session, methods=["PUT"], response_model=None)
    app.add_api_route("/v1/session", gateway.end_session, methods=["DELETE"], response_model=None)
    for path in ("/healthz", "/readyz"):
        app.add_api_route(path, _alive, methods=["GET"], response_model=None)
    app.mount("/cache", runtime.endpoints())
    _shape_errors(app)
    # The last one added is the outermost.
    app.add_middleware(SessionMiddleware, runtime=runtime)
    app.add_middleware(RateLimitMiddleware, runtime=runtime, exempt=PROBES)
    app.add_middleware(ServedBy, name=environ.get("POD_NAME") or f"pid-{os.getpid()}")
    return app


async def _alive() -> Response:
    """Core answers as long as it runs: without Redis it works with less, which /cache/health tells."""
    return _json({"status": "ok"})


def _shape_errors(app: FastAPI) -> None:
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)  # noqa: S101 - registered for this type
        return _error(error.status, str(error), error.code)

    async def upstream_failed(_: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, UpstreamError) else 502
        return _error(status, str(error), "upstream_error")

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
        return _error(error.status_code, str(error.detail), headers=error.headers)

    async def broken(_: Request, error: Exception) -> Response:
        return _error(500, "this service failed; its log says more")

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(UpstreamError, upstream_failed)
    app.add_exception_handler(EmbeddingError, upstream_failed)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, broken)


def _error(
    status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    content = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    challenge = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    return _json(content, status, {**challenge, **(headers or {})})


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def _response(outcome: Outcome[Answer | Stream]) -> Response:
    answer = outcome.answer
    if isinstance(answer, Stream):
        return StreamedResponse(answer, outcome.headers)
    return Response(answer.body, answer.status, {**answer.headers, **outcome.headers})


async def _object(request: Request) -> dict[str, Any]:
    """The body, which has to be a JSON object."""
    try:
        body = orjson.loads(await read_body(request.receive, MAX_BODY_BYTES))
    except BodyTooLargeError as error:
        raise RefusedError(413, str(error)) from None
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"the body is not JSON: {error.msg}") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "the body must be a JSON object")
    return body


def _named_model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL_LENGTH:
        raise RefusedError(400, f"model must be a text of 1 to {MAX_MODEL_LENGTH} characters")
    return model


def _texts(value: Any) -> list[str] | None:
    """The texts of an embeddings request; None for token lists, which are passed on as they are."""
    texts = [value] if isinstance(value, str) else value
    known = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
    return texts if known else None


def _other_settings(body: Mapping[str, Any]) -> str | None:
    """Whatever else the provider is asked for, as text for the key; None where it cannot be in a key."""
    dimensions = body.get("dimensions")
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool)):
        return None
    other = {name: value for name, value in body.items() if name not in _EMBEDDING_FIELDS}
    try:
        return canonical_json(other).decode() if other else ""
    except NotCanonicalError:
        return None


def _embedding_list(embedded: Embedded, model: str, tokens: int, encoded: bool) -> dict[str, Any]:
    """OpenAI's shape; the usage counts what the provider computed for this answer."""
    values: list[Any] = (
        [base64.b64encode(blob).decode() for blob in embedded.blobs] if encoded else embedded.vectors
    )
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _belongs(session: Session, who: Identity) -> bool:
    """Whether this caller wrote the session: a cookie alone does not open somebody else's."""
    return bool(session.get(_OWNER) == [who.tenant, who.user])


def main() -> None:
    arguments = serving.parser(
        "cachepolicy-gateway", "The reference Core of CachePolicy.", port=8080
    ).parse_args()
    serving.log_to_stderr()
    try:
        app = create_app()
    except ValueError as error:
        sys.exit(f"cachepolicy-gateway: {error}")
    serving.serve(app, host=arguments.host, port=arguments.port)


if __name__ == "__main__":
    main()
