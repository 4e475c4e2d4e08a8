"""Several streams as one, and work that ends when the client goes away. Knows nothing of what flows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def merged(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """The items of all streams as they come, each with its stream's index; the first error ends all of them."""
    queue: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(maxsize=len(streams))

    async def pump(index: int, stream: AsyncGenerator[T]) -> None:
        try:
            async with contextlib.aclosing(stream):
                async for item in stream:
                    await queue.put((index, item))
        except asyncio.CancelledError:
            if not pumps[index].cancelling():  # it came out of the stream: nobody else would end the wait for it
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
    """The results of all; when one fails, or nobody waits any more, the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _ended(tasks)


async def while_there(receive: Receive, items: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """`items`, until they end or the client disconnects; then they are closed.

    receive: the ASGI channel, the request's body already read from it.
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
    """The next item, alone in a list; an empty one at the end."""
    async for item in items:
        return [item]
    return []


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def undisturbed(cleaning: Coroutine[Any, Any, None]) -> None:
    """Clean up to the end, however often the caller is cancelled meanwhile: servers cancel more than once."""
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
    """Cancel what is not done, and wait until it has cleaned up."""
    for task in tasks:
        task.cancel()
    await undisturbed(_settled(tasks))


async def _closed(tasks: Sequence[asyncio.Future[Any]], items: AsyncGenerator[Any]) -> None:
    await _ended(tasks)
    await items.aclose()


async def _settled(tasks: Sequence[asyncio.Future[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
