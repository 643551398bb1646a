"""The requests to warm with: a file of JSON lines, read line by line, and which of them are done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cachepolicy_cli.core import reason_of
from cachepolicy_cli.failure import Exit, Failure

MAX_LINE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One request: its line in the file, where it is sent, its body, and a digest that stands for it."""

    line: int
    path: str
    body: dict[str, Any]
    digest: str


def items(file: Path, url: str, path: str) -> Iterator[Item]:
    """The requests in their order; raises :class:`Failure` naming the line that is none.

    A line is a body, which goes to ``path``, or an object with ``url`` and ``body`` as OpenAI's Batch API takes it.
    """
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _item(number, line, url, path)
    except OSError as error:
        raise Failure(f"{file}: {reason_of(error)}", Exit.USAGE) from None


def _item(number: int, line: bytes, url: str, path: str) -> Item:
    try:
        content = json.loads(line) if len(line) <= MAX_LINE_BYTES else None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise Failure(f"line {number} is not a JSON object.", Exit.USAGE)
    body = content
    if isinstance(content.get("body"), dict):
        body, path = content["body"], content.get("url", path)
    if not isinstance(path, str) or not path.startswith("/"):
        raise Failure(f"line {number}: url must be a path such as /v1/chat/completions.", Exit.USAGE)
    if body.get("stream"):
        raise Failure(f"line {number} asks for a stream, which is never cached.", Exit.USAGE)
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(f"{url}\n{path}\n{canonical}".encode()).hexdigest()[:32]
    return Item(number, path, body, digest)


class State:
    """Which requests are done, so that a run that was interrupted goes on: digests only, one a line.

    The file is removed once everything is done: a later run asks again, for the cache may have been cleared.
    """

    def __init__(self, file: Path, *, anew: bool) -> None:
        self._file = file
        self.done: set[str] = set()
        self._open: TextIO | None = None
        try:
            if anew:
                file.unlink(missing_ok=True)
            elif file.exists():
                self.done = set(file.read_text("ascii").split())
            self._open = file.open("a", encoding="ascii", buffering=1)
        except (OSError, UnicodeDecodeError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else "it is no state of mc"
            raise Failure(f"--state {file}: {reason}", Exit.USAGE) from None

    def add(self, digest: str) -> None:
        self.done.add(digest)
        if self._open is not None:
            self._open.write(f"{digest}\n")

    def close(self, *, complete: bool) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
            if complete or not self.done:
                self._file.unlink(missing_ok=True)
