"""From a thread into the event loop of the runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class NotRunningError(RuntimeError):
    """There is no event loop to work with; the message says what to do."""


class LoopBridge:
    """Runs coroutines on the runtime's loop while a thread waits.

    Args:
        loop: the loop that the runtime runs on, None before its lifespan has begun and after its end.
    """

    def __init__(self, loop: Callable[[], asyncio.AbstractEventLoop | None]) -> None:
        self._loop = loop

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of what ``work`` makes. The thread's context goes with it: whose work it is, for instance.

        Raises :class:`NotRunningError` without a running runtime, and on its own loop, which would wait for itself.
        """
        loop = self._running()
        future = asyncio.run_coroutine_threadsafe(work(), loop)
        try:
            return future.result()
        finally:
            future.cancel()  # a thread that was interrupted leaves nothing behind; else it is done already

    def run_if_open(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """For closing: without a loop there is nothing left to close."""
        with suppress(NotRunningError):
            self.run(work)

    def chunks(self, iterator: AsyncIterator[bytes]) -> Iterator[bytes]:
        """What an iterator of the loop yields."""

        async def following() -> bytes | None:
            return await anext(iterator, None)

        while (chunk := self.run(following)) is not None:
            yield chunk

    def _running(self) -> asyncio.AbstractEventLoop:
        loop = self._loop()
        if loop is None or not loop.is_running():
            raise NotRunningError(
                "the runtime does not run: enter its lifespan first (async with runtime.lifespan())"
            )
        if _loop_of_this_thread() is loop:
            raise NotRunningError(
                "this would block the event loop: use the asynchronous client, or a thread (asyncio.to_thread)"
            )
        return loop


def _loop_of_this_thread() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
