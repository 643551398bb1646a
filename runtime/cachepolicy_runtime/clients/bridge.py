"""From a thread into the event loop of the runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")


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

    def run_with(
        self,
        work: Callable[[Callable[P, Awaitable[T]]], Coroutine[Any, Any, U]],
        here: Callable[P, T],
    ) -> U:
        """As :meth:`run`, for work that may call ``here``, which runs in this thread and not in another one:
        whoever waits for a thread of a pool while he holds one may wait for ever.
        """
        loop, turns = self._running(), _Turns[T]()

        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            asked: asyncio.Future[_Done[T]] = loop.create_future()
            turns.ask((asked, lambda: here(*args, **kwargs)))
            return (await asked).result()

        future = asyncio.run_coroutine_threadsafe(work(run), loop)
        future.add_done_callback(lambda _: turns.end())
        try:
            for asked, call in turns:
                loop.call_soon_threadsafe(_settle, asked, _Done(call))
            return future.result()
        finally:
            future.cancel()

    def run_if_open(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """For closing: without a loop there is nothing left to close."""
        with suppress(NotRunningError):
            self.run(work)

    def each(self, iterator: AsyncIterator[T]) -> Generator[T]:
        """What an iterator of the loop yields; None is the end."""

        async def following() -> T | None:
            return await anext(iterator, None)

        while (item := self.run(following)) is not None:
            yield item

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


@contextmanager
def running_in_thread(lifespan: Callable[[], AbstractAsyncContextManager[Any]]) -> Iterator[None]:
    """An event loop in a thread of its own, within ``lifespan``; what that raises at its start is raised here."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        ended = asyncio.Event()
        async with lifespan():
            started.set_result((asyncio.get_running_loop(), ended))
            await ended.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = Thread(target=run, name="cachepolicy", daemon=True)
    thread.start()
    loop, ended = started.result()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


class _Done(Generic[T]):
    """How a call ended. An exception travels as a value, for a future refuses some."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._value: T | None = None
        self._error: Exception | None = None
        try:
            self._value = call()
        except Exception as error:
            self._error = error

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return cast("T", self._value)


class _Turns(Generic[T]):
    """What a thread is asked to do, until there is no more."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[asyncio.Future[_Done[T]], Callable[[], T]] | None] = SimpleQueue()
        self.ask = self._asked.put

    def end(self) -> None:
        self._asked.put(None)

    def __iter__(self) -> Iterator[tuple[asyncio.Future[_Done[T]], Callable[[], T]]]:
        return iter(self._asked.get, None)


def _settle(asked: asyncio.Future[_Done[T]], done: _Done[T]) -> None:
    if not asked.done():
        asked.set_result(done)


def _loop_of_this_thread() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
