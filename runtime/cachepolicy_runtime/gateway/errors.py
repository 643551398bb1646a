"""Errors of the gateway in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from cachepolicy_runtime.embeddings import EmbeddingError
from cachepolicy_runtime.gateway.responding import json_response
from cachepolicy_runtime.upstream import UpstreamError


class RefusedError(Exception):
    """The request is refused; the message says what is wrong with it, ``code`` is OpenAI's word for it."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def shape_errors(app: FastAPI) -> None:
    """Answer every exception of a handler the way the caller's SDK expects it."""

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
    return json_response(content, status, {**challenge, **(headers or {})})
