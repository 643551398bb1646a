"""Server-sent events, taken apart as they arrive (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Nothing is kept but the event that is not complete yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: A blank line ends an event; lines end with LF, CRLF or CR, also mixed.
_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINE = re.compile(rb"\r\n|\n|\r")
#: As far as the end of an event may lie in what was searched before: CR, LF, CR.
_OVERLAP = 3


class EventSplitter:
    """Cuts a stream of bytes into whole events. ``limit`` bounds what an unfinished one may take, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that ``chunk`` completes, each as it came, its blank line included. One that is longer than
        the limit comes in pieces."""
        searched = max(0, len(self._rest) - _OVERLAP)
        self._rest += chunk
        start = 0
        for end in _ends(self._rest, searched):
            yield bytes(self._rest[start:end])
            start = end
        del self._rest[:start]
        if len(self._rest) > self._limit:
            yield self.rest()

    def rest(self) -> bytes:
        """What is left of an event that did not end; asked at the end of the stream."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest


def _ends(text: bytearray, start: int) -> Iterator[int]:
    """Where events end. Nearly all providers end lines with LF, which needs no regular expression."""
    if text.find(b"\r", start) >= 0:
        yield from (found.end() for found in _END.finditer(text, start))
        return
    while (found_at := text.find(b"\n\n", start)) >= 0:
        start = found_at + 2
        yield start


def data_of(event: bytes) -> bytes:
    """The event's data: the values of its ``data`` fields, joined by line feeds."""
    if event.startswith(b"data:") and event.find(b"\n") >= len(event) - 2:
        return event[5:].strip()  # one line: nearly every event of OpenAI
    values = (line[5:].removeprefix(b" ") for line in _LINE.split(event) if line.startswith(b"data:"))
    return b"\n".join(values)
