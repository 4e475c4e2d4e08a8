"""Merges several streams into one, and cancels work when the client disconnects. Works with any kind of item."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def merged(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """The items of all streams as they arrive, each with its stream's index; the first error ends all streams."""
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(maxsize=len(streams))

    async def pump(index: int, stream: AsyncGenerator[T]) -> None:
        try:
            async with contextlib.aclosing(stream):
                async for item in stream:
                    await queue.put((index, item))
        except asyncio.CancelledError:
            if not pumps[index].cancelling():  # the stream itself was cancelled, not this task
                await queue.put(ConnectionAbortedError("a stream was cancelled where it is made"))
            raise
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    pumps = [asyncio.create_task(pump(*numbered)) for numbered in enumerate(streams)]
    try:
        going = len(pumps)
        while going:
            item = await queue.get()
            if item is None:
                going -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        await _ended(pumps)


async def together(work: Sequence[Awaitable[T]]) -> list[T]:
    """The results of all; if one fails, or the caller is cancelled, the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _ended(tasks)


async def while_there(receive: Receive, items: AsyncGenerator[T], deadline: float | None = None) -> AsyncGenerator[T]:
    """`items`, until they end or the client disconnects; then they are closed.

    Args:
        receive: the ASGI channel, from which the request's body has already been read.
        deadline: in the event loop's time; None for no limit.

    Raises:
        TimeoutError: the deadline has passed.
    """
    steps = _Steps()
    gone = asyncio.ensure_future(_disconnected(receive))
    gone.add_done_callback(steps.leave)
    late = None if deadline is None else asyncio.get_running_loop().call_at(deadline, steps.expire)
    try:
        while found := await steps.next(items):
            yield found[0]
        if steps.expired:
            raise TimeoutError
    finally:
        if late is not None:
            late.cancel()
        gone.cancel()  # not awaited: it has nothing to clean up
        await undisturbed(items.aclose())


class _Steps:
    """Awaits items in the caller's task until it is interrupted. An interruption works like `asyncio.timeout`: the task
    is cancelled, and then the cancellation is withdrawn. A task of its own for each item would cost more than most
    items.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._left = False
        self._interrupted = False
        self.expired = False

    def leave(self, watch: asyncio.Future[None]) -> None:
        """The client has disconnected, or its connection has broken."""
        if watch.cancelled():
            return
        watch.exception()  # the connection broke, which is no error of this system
        self._left = True
        self._interrupt()

    def expire(self) -> None:
        """The deadline has passed."""
        self.expired = not self._left
        self._interrupt()

    def _interrupt(self) -> None:
        if self._task is not None and not self._interrupted:
            self._interrupted = True
            self._task.cancel()

    async def next(self, items: AsyncGenerator[T]) -> list[T]:
        """A list with the next item; an empty list at the end, or if it was interrupted."""
        if self._left or self.expired:
            return []
        task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        self._task = task
        try:
            async for item in items:
                return [item]
            return []
        except asyncio.CancelledError:
            if not self._interrupted or task.cancelling() > before + 1:
                raise  # the caller itself was cancelled
            return []
        finally:
            self._task = None
            if self._interrupted:
                task.uncancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def undisturbed(cleaning: Coroutine[Any, Any, None]) -> None:
    """Finish cleaning up even if the caller is cancelled meanwhile: servers cancel a request more than once."""
    task = asyncio.ensure_future(cleaning)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


async def _ended(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel the tasks that are not done, and wait until they have cleaned up."""
    for task in tasks:
        task.cancel()
    await undisturbed(_settled(tasks))


async def _settled(tasks: Sequence[asyncio.Future[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
