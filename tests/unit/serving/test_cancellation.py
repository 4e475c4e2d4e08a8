"""Merged streams: everything is cleaned up, however often and wherever the reader is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from onceedit_ray.serving.cancellation import merged, undisturbed, while_there


class Counting:
    """Generators that count how many of them are open, and take a while to close."""

    def __init__(self) -> None:
        self.open = 0

    async def numbers(self) -> AsyncGenerator[int]:
        self.open += 1
        try:
            for number in range(10_000):
                await asyncio.sleep(0)
                yield number
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            self.open -= 1


async def never() -> dict[str, str]:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("turns", range(0, 12, 3))
async def test_a_reader_cancelled_again_and_again_leaves_nothing_open(times: int, turns: int) -> None:
    async def run() -> int:
        counting = Counting()

        async def read() -> None:
            items = while_there(never, merged([counting.numbers() for _ in range(4)]))
            async with contextlib.aclosing(items):
                async for _ in items:
                    pass

        reader = asyncio.ensure_future(read())
        for _ in range(20 + turns):
            await asyncio.sleep(0)
        assert counting.open == 4
        for _ in range(times):
            reader.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await reader
        return counting.open

    assert await run() == 0


async def test_a_stream_cancelled_where_it_is_made_ends_the_wait_for_it() -> None:
    async def cancelled() -> AsyncGenerator[int]:
        yield 1
        raise asyncio.CancelledError

    async def run() -> list[tuple[int, int]]:
        seen = []
        with pytest.raises(ConnectionAbortedError):
            async with asyncio.timeout(10):
                async for item in merged([cancelled()]):
                    seen.append(item)
        return seen

    assert await run() == [(0, 1)]


async def test_who_cleans_up_undisturbed_is_cancelled_afterwards() -> None:
    done = []

    async def clean() -> None:
        await asyncio.sleep(0.01)
        done.append(True)

    task = asyncio.ensure_future(undisturbed(clean()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


async def test_what_goes_wrong_while_cleaning_up_is_raised() -> None:
    async def clean() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await undisturbed(clean())


async def slow(pause: float) -> AsyncGenerator[int]:
    for number in range(1000):
        await asyncio.sleep(pause if number else 0)
        yield number


async def test_a_client_that_leaves_ends_the_wait_for_an_item() -> None:
    async def leaves() -> dict[str, str]:
        await asyncio.sleep(0.02)
        return {"type": "http.disconnect"}

    async with asyncio.timeout(10):
        assert [number async for number in while_there(leaves, slow(60.0))] == [0]
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0, "the caller goes on"


async def test_the_deadline_ends_the_wait_for_an_item_and_an_answer_that_goes_on() -> None:
    for pause in (60.0, 0.005):
        seen = []
        deadline = asyncio.get_running_loop().time() + 0.05
        with pytest.raises(TimeoutError):
            async for number in while_there(never, slow(pause), deadline):
                seen.append(number)
        assert seen and seen == list(range(len(seen)))
        task = asyncio.current_task()
        assert task is not None and task.cancelling() == 0, "the caller goes on"


async def test_a_caller_cancelled_while_the_client_leaves_is_cancelled() -> None:
    gone = asyncio.Event()

    async def leaves() -> dict[str, str]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def read() -> list[int]:
        return [number async for number in while_there(leaves, slow(60.0))]

    reader = asyncio.ensure_future(read())
    await asyncio.sleep(0.02)
    gone.set()
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
