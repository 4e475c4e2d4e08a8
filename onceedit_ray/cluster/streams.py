"""Calls of an async actor that end with their caller: who is cancelled, or stops reading, cancels them over there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import ray

from onceedit_ray.cluster.results import result


async def awaited(method: Any, *args: object) -> Any:
    """The result of an actor's method; raises as `results.result`."""
    reference = method.remote(*args)
    try:
        return await result(reference)
    except asyncio.CancelledError:
        _cancel(reference)
        raise


async def received(method: Any, *args: object) -> AsyncGenerator[Any]:
    """The items of an actor's async generator as they are made; raises as `results.result`."""
    generator = method.options(num_returns="streaming").remote(*args)
    ended = False
    try:
        async for reference in generator:
            yield await result(reference)
        ended = True
    finally:
        if not ended:
            _cancel(generator)


def _cancel(call: Any) -> None:
    """Cancel one call and none of those it made: a model's call serves many requests, and frees their sessions."""
    ray.cancel(call, recursive=False)
