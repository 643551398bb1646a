"""The Redis protocol, version 2: commands to bytes, bytes to replies. No I/O.

https://redis.io/docs/latest/develop/reference/protocol-spec/. The parser is plain Python: measured beside
``hiredis.Reader`` it is faster for batches of kilobytes (no copy of its own) and slower for arrays of integers
(docs/decisions.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

from cachepolicy_runtime.store.failures import ErrorReply, error_reply

Argument: TypeAlias = "bytes | str | int"
Command: TypeAlias = Sequence[Argument]
Reply: TypeAlias = "bytes | int | ErrorReply | list[Reply] | None"

#: A longer value is collected in pieces instead of being looked for again with every piece that comes.
_LONG = 1 << 16
#: The end of one argument and the head of the next one, by its length.
_SHORT = 1024
_HEADS = tuple(b"\r\n$%d\r\n" % size for size in range(_SHORT))
_INTEGERS = re.compile(rb":-?[0-9]+\r\n(?::-?[0-9]+\r\n)*").match


class ProtocolError(Exception):
    """The other side does not speak this protocol."""


def pack(command: Command) -> bytes:
    """One command."""
    return b"*%d\r\n%b" % (len(command), pack_arguments(command))


def pack_arguments(arguments: Iterable[Argument]) -> bytes:
    """Arguments without the head that counts them."""
    parts: list[bytes] = []
    for one in arguments:
        value = one.encode() if type(one) is str else one if type(one) is bytes else _encoded(one)
        size = len(value)
        parts.append(_HEADS[size] if size < _SHORT else b"\r\n$%d\r\n" % size)
        parts.append(value)
    if not parts:
        return b""
    parts[0] = parts[0][2:]
    parts.append(b"\r\n")
    return b"".join(parts)


def _encoded(value: Argument) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    return value.encode() if isinstance(value, str) else bytes(value)


@lru_cache(maxsize=4096)
def script_head(sha: str, keys: int, arguments: int) -> bytes:
    """``EVALSHA`` up to the number of keys; what follows are the keys and the other arguments."""
    return b"*%d\r\n%b" % (3 + keys + arguments, pack_arguments(("EVALSHA", sha, keys)))


class Parser:
    """Takes what the socket gives, in whatever pieces, and gives whole replies."""

    __slots__ = ("_long", "_missing", "_open", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        #: Arrays that have begun: the items so far, and how many there will be.
        self._open: list[tuple[list[Reply], int]] = []
        self._long: list[bytes] = []
        self._missing = 0

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are complete now. Raises :class:`ProtocolError`."""
        if self._missing:
            return self._feed_long(data)
        if self._tail:
            data = self._tail + data
            self._tail = b""
        done: list[Reply] = []
        try:
            position = self._scan(data, done)
        except ValueError:
            raise ProtocolError from None
        if position < len(data):
            self._tail = data[position:]
        return done

    def _scan(self, data: bytes, done: list[Reply]) -> int:  # noqa: PLR0912 - one branch for each type of the protocol
        """Read replies into ``done``; where the first one begins that is not whole."""
        position, end, find = 0, len(data), data.find
        while position < end:
            line_end = find(b"\r\n", position)
            if line_end < 0:
                return position
            kind = data[position]
            value: Reply = None
            if kind == 36:  # $ a string
                size, start = int(data[position + 1 : line_end]), line_end + 2
                if size >= 0:
                    stop = start + size
                    if stop + 2 > end:
                        if size < _LONG:
                            return position
                        self._long, self._missing = [data[start:]], stop + 2 - end
                        return end
                    value, start = data[start:stop], stop + 2
                position = start
            elif kind == 58:  # : an integer
                value, position = int(data[position + 1 : line_end]), line_end + 2
            elif kind == 42:  # * an array
                count, position = int(data[position + 1 : line_end]), line_end + 2
                if count > 0:
                    whole = _integers(data, position, count)
                    if whole is None:
                        self._open.append(([], count))
                        continue
                    value, position = whole
                elif count == 0:
                    value = []
            elif kind == 43:  # + a word
                value, position = data[position + 1 : line_end], line_end + 2
            elif kind == 45:  # - an error
                value, position = error_reply(data[position + 1 : line_end]), line_end + 2
            else:
                raise ProtocolError
            if self._open:
                self._close(value, done)
            else:
                done.append(value)
        return position

    def _close(self, value: Reply, done: list[Reply]) -> None:
        """Put ``value`` into the array that is open, and that one, if it is full now, into what is around it."""
        while self._open:
            items, count = self._open[-1]
            items.append(value)
            if len(items) < count:
                return
            self._open.pop()
            value = items
        done.append(value)

    def _feed_long(self, data: bytes) -> list[Reply]:
        missing = self._missing
        self._long.append(data[:missing])
        self._missing = max(0, missing - len(data))
        if self._missing:
            return []
        value = self._joined()
        done: list[Reply] = []
        self._close(value, done)
        return done + self.feed(data[missing:]) if len(data) > missing else done

    def _joined(self) -> bytes:
        """The long value without the line break behind it, copied once where that is in one piece."""
        pieces, self._long = self._long, []
        if len(pieces[-1]) < 2:
            return b"".join(pieces)[:-2]
        pieces[-1] = pieces[-1][:-2]
        return b"".join(pieces)


def _integers(data: bytes, position: int, count: int) -> tuple[list[Reply], int] | None:
    """An array of nothing but integers, which is what most scripts answer, and where it ends."""
    found = _INTEGERS(data, position)
    if found is None:
        return None
    items: list[Reply] = list(map(int, data[position + 1 : found.end() - 2].split(b"\r\n:")))
    return (items, found.end()) if len(items) == count else None
