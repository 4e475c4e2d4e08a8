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


async def while_there(receive: Receive, items: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """`items`, until they end or the client disconnects; then they are closed.

    receive: the ASGI channel, from which the request's body has already been read.
    """
    gone = asyncio.ensure_future(_disconnected(receive))
    step: asyncio.Future[list[T]] | None = None
    try:
        while True:
            step = asyncio.ensure_future(_next(items))
            await asyncio.wait({step, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                return
            found = step.result()
            if not found:
                return
            yield found[0]
    finally:
        await undisturbed(_closed([gone] if step is None else [gone, step], items))


async def _next(items: AsyncGenerator[T]) -> list[T]:
    """A list with the next item; an empty list at the end."""
    async for item in items:
        return [item]
    return []


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


async def _closed(tasks: Sequence[asyncio.Future[Any]], items: AsyncGenerator[Any]) -> None:
    await _ended(tasks)
    await items.aclose()


async def _settled(tasks: Sequence[asyncio.Future[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
