"""Sending the requests: so many at once, not beyond the caps, patient where Core asks to wait."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from cachepolicy_cli.core import refused, unreachable
from cachepolicy_cli.failure import Failure
from cachepolicy_cli.warm_file import Item

#: Attempts at one request where Core limits or fails, and the longest wait between two, in seconds.
ATTEMPTS = 6
MAX_WAIT_S = 60.0
_MAX_TOLD = 5
_WAIT_FOR = (429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Caps:
    """Where to stop: requests sent, and tokens of the answers that were not in the cache. None: no cap."""

    requests: int | None = None
    tokens: int | None = None


@dataclass(slots=True)
class Totals:
    """What became of the requests. ``skipped``: done in an earlier run, or twice in the file."""

    sent: int = 0
    cached: int = 0
    stored: int = 0
    not_stored: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    skipped: int = 0
    tokens: int = 0
    failures: list[str] = field(default_factory=list)
    capped: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "cached": self.cached,
            "stored": self.stored,
            "notStored": dict(self.not_stored),
            "failed": self.failed,
            "skipped": self.skipped,
            "tokens": self.tokens,
            "failures": self.failures,
            "stoppedAt": self.capped,
        }

    def fail(self, line: int, sentence: str) -> None:
        self.failed += 1
        if len(self.failures) < _MAX_TOLD:
            self.failures.append(f"line {line}: {sentence}")


class Run:
    """One run over a file. ``done`` hears of each digest whose answer is cached now, ``moved`` of each request."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        caps: Caps,
        known: set[str],
        done: Callable[[str], None],
        moved: Callable[[Totals], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.totals = Totals()
        self._http = http
        self._caps = caps
        self._known = set(known)
        self._done = done
        self._moved = moved
        self._clock = clock
        self._sleep = sleep
        self._wait_until = float("-inf")

    async def all(self, items: Iterator[Item], concurrency: int) -> None:
        """Send everything, ``concurrency`` at once. Raises :class:`Failure` where going on is of no use."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(self._worker(items))
        except* Failure as failures:
            raise failures.exceptions[0] from None

    async def _worker(self, items: Iterator[Item]) -> None:
        for item in items:
            if item.digest in self._known:
                self.totals.skipped += 1
            elif self._at_cap():
                return
            else:
                self._known.add(item.digest)
                self.totals.sent += 1
                await self._one(item)
            self._moved(self.totals)

    def _at_cap(self) -> bool:
        caps, totals = self._caps, self.totals
        if caps.requests is not None and totals.sent >= caps.requests:
            totals.capped = f"{caps.requests} requests"
        if caps.tokens is not None and totals.tokens >= caps.tokens:
            totals.capped = f"{caps.tokens} tokens"
        return totals.capped is not None

    async def _one(self, item: Item) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            await self._sleep(max(0.0, self._wait_until - self._clock()))
            reply = await self._send(item, attempt)
            if reply is not None and (reply.status_code not in _WAIT_FOR or attempt == ATTEMPTS):
                self._count(item, reply)
                return
            # All wait: the next one would be refused for the same reason.
            wait = _wait(reply, attempt)
            self._wait_until = max(self._wait_until, self._clock() + wait)

    async def _send(self, item: Item, attempt: int) -> httpx.Response | None:
        """None where Core could not be reached this time; in the end that ends the run."""
        try:
            return await self._http.post(item.path, json=item.body)
        except httpx.HTTPError as error:
            if attempt == ATTEMPTS:
                raise Failure(f"line {item.line}: {unreachable(str(self._http.base_url), error)}") from None
            return None

    def _count(self, item: Item, reply: httpx.Response) -> None:
        totals = self.totals
        if reply.status_code in (401, 403):
            raise Failure(f"{refused(reply)} (--api-key-file)")
        if reply.status_code != httpx.codes.OK:
            totals.fail(item.line, refused(reply))
            return
        said = cache_status(reply.headers.get("cache-status", ""))
        if "hit" in said:
            totals.cached += 1
        else:
            totals.tokens += tokens_of(reply)
            if why := why_not_stored(said):
                totals.not_stored[why] += 1
            else:
                totals.stored += 1
        self._done(item.digest)


def cache_status(value: str) -> dict[str, str]:
    """The parameters of a ``Cache-Status`` header (RFC 9211) that our cache wrote."""
    parts = (part.strip().partition("=") for part in value.split(";")[1:])
    return {name: what.strip('"') for name, _, what in parts}


def why_not_stored(said: Mapping[str, str]) -> str | None:
    """One word; None where the answer is stored. Embeddings say so by how much of a batch was known."""
    if "stored" in said or said.get("fwd") == "partial":
        return None
    if not said:
        return "no-cache-status"
    return said.get("detail") or (said["fwd"] if said.get("fwd") == "bypass" else None)


def tokens_of(reply: httpx.Response) -> int:
    """Tokens that the answer says it cost, in the shapes of OpenAI and Anthropic."""
    try:
        usage = reply.json().get("usage") or {}
        names = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
        total = usage.get("total_tokens")
        return int(total if total is not None else sum(int(usage.get(name) or 0) for name in names))
    except (ValueError, TypeError, AttributeError):
        return 0


def _wait(reply: httpx.Response | None, attempt: int) -> float:
    """Seconds that Core asks for, else twice as long each time."""
    asked = reply.headers.get("retry-after", "") if reply is not None else ""
    seconds = float(asked) if asked.isdigit() else 0.25 * 2**attempt
    return min(seconds, MAX_WAIT_S)
