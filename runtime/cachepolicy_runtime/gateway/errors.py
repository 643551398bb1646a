"""Errors of the gateway, in the shape of the API that is called.

A refusal by a limit is a problem document (RFC 9457) to which the API's own ``error`` is added as an extension member:
whoever reads either finds it. Anthropic's ``type`` has to be ``error``, so its documents name theirs no other way.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from cachepolicy_runtime.asgi.types import Scope
from cachepolicy_runtime.embeddings import EmbeddingError
from cachepolicy_runtime.gateway.responding import json_response
from cachepolicy_runtime.gateway.shapes import shaped, speaks_anthropic
from cachepolicy_runtime.ratelimit import Decision
from cachepolicy_runtime.ratelimit_answer import PROBLEM_JSON, headers, problem, status_of
from cachepolicy_runtime.session import SessionConflict, SessionError, SessionsUnavailable
from cachepolicy_runtime.spend import LimitedError
from cachepolicy_runtime.upstream import UpstreamError


class RefusedError(Exception):
    """The request is refused; the message says what is wrong with it, ``code`` is OpenAI's word for it."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def shape_errors(app: FastAPI) -> None:
    """Answer every exception of a handler the way the caller's SDK expects it."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)  # noqa: S101 - registered for this type
        return _error(request, error.status, str(error), error.code)

    async def limited(request: Request, error: Exception) -> Response:
        assert isinstance(error, LimitedError)  # noqa: S101 - registered for this type
        return _limited(request.scope, error.decision)

    async def upstream_failed(request: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, UpstreamError) else 502
        return _error(request, status, str(error), "upstream_error")

    async def session_failed(request: Request, error: Exception) -> Response:
        if isinstance(error, SessionsUnavailable):
            return _error(request, 503, str(error), "sessions_unavailable", headers={"Retry-After": "1"})
        if isinstance(error, SessionConflict):
            return _error(request, 409, str(error), "session_conflict")
        return _error(request, 500, str(error))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
        return _error(request, error.status_code, str(error.detail), headers=error.headers)

    async def broken(request: Request, error: Exception) -> Response:
        return _error(request, 500, "this service failed; its log says more")

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(LimitedError, limited)
    app.add_exception_handler(UpstreamError, upstream_failed)
    app.add_exception_handler(EmbeddingError, upstream_failed)
    app.add_exception_handler(SessionError, session_failed)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, broken)


def refusal_body(scope: Scope, decision: Decision) -> tuple[bytes, bytes]:
    """Body and content type of an answer to a request that a limit does not let through."""
    told = orjson.loads(problem(decision))
    status = status_of(decision)
    code = "rate_limit_exceeded" if status == HTTPStatus.TOO_MANY_REQUESTS else "limits_unavailable"
    anthropic = speaks_anthropic(scope)
    error = shaped(anthropic, status, told["detail"], code)
    kind = "application/json" if anthropic else PROBLEM_JSON
    return orjson.dumps({**told, **error}), kind.encode("ascii")


def _limited(scope: Scope, decision: Decision) -> Response:
    body, kind = refusal_body(scope, decision)
    response = Response(body, status_of(decision), media_type=kind.decode("ascii"))
    response.raw_headers.extend(headers(decision))  # beside those of admission, as further lines
    return response


def _error(
    request: Request,
    status: int,
    message: str,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    content = shaped(speaks_anthropic(request.scope), status, message, code)
    challenge = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}
    return json_response(content, status, {**challenge, **(headers or {})})
