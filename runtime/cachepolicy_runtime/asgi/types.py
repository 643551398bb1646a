"""The ASGI interface (https://asgi.readthedocs.io/en/latest/specs/www.html) and the few things read from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]


class BodyTooLargeError(ValueError):
    """The request's body is longer than it may be."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of this name (lower case), None where there is none."""
    return next((value for key, value in scope["headers"] if key.lower() == name), None)


def bearer(scope: Scope) -> bytes | None:
    """The token of ``Authorization: Bearer …`` (RFC 6750), None where there is none."""
    scheme, _, token = (header(scope, b"authorization") or b"").partition(b" ")
    return token.strip() or None if scheme.lower() == b"bearer" else None


def client_ip(scope: Scope) -> str | None:
    """The address that the connection came from. No header is looked at: whoever sends one could choose it."""
    client = scope.get("client")
    return client[0] if client else None


def route_path(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body; raises :class:`BodyTooLargeError` beyond ``limit`` bytes."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLargeError(f"the body is longer than {limit} bytes")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return bytes(body)


async def respond(
    send: Send, status: int, body: bytes, content_type: bytes, headers: Iterable[Header] = ()
) -> None:
    """A whole answer."""
    fixed = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})
