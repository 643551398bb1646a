"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

import orjson

from cachepolicy_runtime.asgi.types import Header, Send, respond
from cachepolicy_runtime.ratelimit_answer import PROBLEM_JSON

CONTENT_TYPE = PROBLEM_JSON.encode("ascii")


def problem_body(status: int, detail: str) -> bytes:
    """``detail`` says what happened and what to do; it never holds a secret or a part of a prompt."""
    return orjson.dumps(
        {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    )


async def send_problem(send: Send, status: int, detail: str, headers: Iterable[Header] = ()) -> None:
    """The whole answer; see :func:`problem_body`."""
    await respond(send, status, problem_body(status, detail), CONTENT_TYPE, headers)
