"""Answers of the endpoints as values: a handler returns one, ``app.py`` sends it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from cachepolicy_runtime.asgi.problem import problem_body
from cachepolicy_runtime.asgi.types import Header, Send, respond
from cachepolicy_runtime.ratelimit_answer import PROBLEM_JSON

_JSON = "application/json"

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: tuple[Header, ...] = ()

    async def send(self, send: Send) -> None:
        headers = [(b"cache-control", b"no-store"), *self.headers]
        await respond(send, self.status, self.body, self.content_type.encode("ascii"), headers)


class RefusedError(Exception):
    """The request is not answered as asked: becomes a problem document (RFC 9457).

    ``detail`` says what happened and what to do; it holds no secret and no part of a prompt.
    """

    def __init__(self, status: int, detail: str, headers: Iterable[Header] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = tuple(headers)

    @property
    def reply(self) -> Reply:
        return Reply(self.status, problem_body(self.status, str(self)), PROBLEM_JSON, self.headers)


def json_reply(content: Mapping[str, Any]) -> Reply:
    return Reply(200, orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


def parsed(model: type[Model], body: bytes) -> Model:
    """The body as ``model``; raises :class:`RefusedError` naming the first field that is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RefusedError(400, _sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
