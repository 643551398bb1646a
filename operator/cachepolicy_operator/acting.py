"""When this operator acts: from the moment that it holds the Lease until it loses it, or for as long as it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from cachepolicy_operator.lease import Leadership
from cachepolicy_operator.queue import Gate

log = logging.getLogger(__name__)


class Acting:
    """``rounds`` run, and ``gate`` is open, only while this operator acts. ``tell`` is given 1 or 0."""

    def __init__(
        self,
        leadership: Leadership | None,
        gate: Gate,
        rounds: Sequence[Callable[[], Coroutine[Any, Any, None]]],
        tell: Callable[[float], None],
    ) -> None:
        self.gate = gate
        self.lost = False
        self._leadership = leadership
        self._rounds = rounds
        self._tell = tell
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> asyncio.Task[None]:
        """A task that ends when the Lease is lost."""
        self._tell(0)
        task = asyncio.create_task(self._lead())
        self._tasks.append(task)
        return task

    async def stop(self) -> None:
        """End the rounds."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _lead(self) -> None:
        if self._leadership is not None:
            await self._leadership.acquire()
        self._tell(1)
        self.gate.open()
        self._tasks += [asyncio.create_task(run()) for run in self._rounds]
        if self._leadership is None:
            await asyncio.Event().wait()
            return
        why = await self._leadership.hold()
        self.lost = True
        self._tell(0)
        log.error("the Lease is lost (%s): this operator ends, and starts again to wait for its turn", why)
