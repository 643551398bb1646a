"""Replies of the server as the types that a command or script promises."""

from __future__ import annotations

from cachepolicy_runtime.store.link import Reply


def integer(reply: Reply) -> int:
    if not isinstance(reply, int):
        raise TypeError(f"expected an integer from the server, not {type(reply).__name__}")
    return reply


def blob(reply: Reply) -> bytes:
    if not isinstance(reply, bytes):
        raise TypeError(f"expected a string from the server, not {type(reply).__name__}")
    return reply


def blob_or_none(reply: Reply) -> bytes | None:
    return None if reply is None else blob(reply)


def items(reply: Reply) -> list[Reply]:
    if not isinstance(reply, list):
        raise TypeError(f"expected a list from the server, not {type(reply).__name__}")
    return reply
