"""Tasks that go on after the request that began them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

_log = logging.getLogger("cachepolicy.background")

#: What is under way at the end gets this long, in seconds.
_END_S = 1.0


class Background:
    """Keeps tasks alive until they end. One that fails says so in the log."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def aclose(self) -> None:
        """Let everything end by itself for a moment, then cancel it. What ends may begin something last."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=_END_S)
        for _ in range(3):
            if tasks := set(self._tasks):
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=_END_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a task in the background failed: %s", type(error).__name__)
