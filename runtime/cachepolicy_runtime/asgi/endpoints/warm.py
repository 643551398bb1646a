"""``POST /warm``: a bounded batch of requests, sent through the application's own call path.

What is cached already costs a look and no call, so a batch may be sent again after a failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from cachepolicy.identity import Identity
from cachepolicy_runtime.asgi.endpoints.answers import RefusedError, Reply, json_reply, parsed
from cachepolicy_runtime.asgi.endpoints.body import Body

_log = logging.getLogger("cachepolicy.endpoints")

MAX_REQUESTS, AT_ONCE = 64, 4
CACHED, STORED, NOT_STORED, FAILED = "cached", "stored", "notStored", "failed"


class WarmRefusedError(ValueError):
    """The application does not run this request; the message says why and holds no part of a prompt."""


@dataclass(frozen=True, slots=True)
class WarmRequest:
    """One request, as if ``identity`` had sent ``body`` to ``path`` of the application."""

    path: str
    body: dict[str, Any]
    identity: Identity


#: Runs one request and returns the value of its ``Cache-Status`` header (RFC 9211). An exception is a failure.
Warm = Callable[[WarmRequest], Awaitable[str]]


class WarmItem(Body):
    """Whose answer to what."""

    tenant: str = Field(min_length=1, max_length=256)
    user: str | None = Field(default=None, min_length=1, max_length=256)
    path: str = Field(pattern="^/", max_length=256)
    body: dict[str, Any] = Field(min_length=1)

    @property
    def request(self) -> WarmRequest:
        return WarmRequest(self.path, self.body, Identity(tenant=self.tenant, user=self.user))


class WarmBatch(Body):
    """Requests that are run, :data:`AT_ONCE` at a time."""

    requests: list[WarmItem] = Field(min_length=1, max_length=MAX_REQUESTS)


class WarmHandler:
    """One batch at a time in a process, so that batches do not add up to an overload of the provider."""

    def __init__(self, warm: Warm | None) -> None:
        self._warm = warm
        self._busy = False

    async def __call__(self, body: bytes) -> Reply:
        batch = parsed(WarmBatch, body)
        if self._warm is None:
            raise RefusedError(501, "This application does not say how to warm: runtime.endpoints(warm=…).")
        if self._busy:
            raise RefusedError(429, "Another batch is under way here.", [(b"retry-after", b"5")])
        self._busy = True
        try:
            results = await _run(batch, self._warm)
        finally:
            self._busy = False
        counts = Counter(result["result"] for result in results)
        summary = {name: counts[name] for name in (CACHED, STORED, NOT_STORED, FAILED)}
        _log.info("warmed: %s", ", ".join(f"{number} {name}" for name, number in summary.items()))
        return json_reply({**summary, "results": results})


async def _run(batch: WarmBatch, warm: Warm) -> list[dict[str, Any]]:
    """The results in the order of the requests."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(item: WarmItem) -> dict[str, Any]:
        async with free:
            result, detail = await _result(item, warm)
        return {"result": result} | ({"detail": detail} if detail else {})

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in batch.requests]
    return [task.result() for task in tasks]


async def _result(item: WarmItem, warm: Warm) -> tuple[str, str | None]:
    try:
        return outcome(await warm(item.request))
    except WarmRefusedError as error:
        return FAILED, str(error)
    except Exception as error:
        # Its text may hold a part of the request.
        _log.warning("warming a request failed: %s", type(error).__name__)
        return FAILED, type(error).__name__


def outcome(cache_status: str) -> tuple[str, str | None]:
    """What a ``Cache-Status`` says about the cache, and the word for why nothing was stored."""
    _, *parts = (part.strip() for part in cache_status.split(";"))
    said = dict(part.partition("=")[::2] for part in parts)
    detail = said.get("detail") or None
    if "hit" in said:
        return CACHED, None
    if "stored" in said or said.get("fwd") == "partial":
        return STORED, None
    if detail or said.get("fwd") == "bypass":
        return NOT_STORED, detail
    return STORED, None
