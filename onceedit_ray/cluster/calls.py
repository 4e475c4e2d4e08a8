"""Calls of an async actor that end with their caller: who is cancelled, or stops reading, cancels them over there.

And with nothing else. Ray knows which task made a call, and who cancels a task cancels its calls, theirs, and so on:
Serve does so when a client goes away. A model's call carries the work of many requests, so no request's end may reach
it that way, and a request that is cancelled twice could not clean up. Calls are made from outside of any task instead.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError, TaskCancelledError

from onceedit_ray.errors import OnceEditError


async def result(reference: Any) -> Any:
    """The value behind an object reference.

    A `OnceEditError` raised over there is raised here as itself. Whatever way Ray has of saying that the process over
    there is gone (killed for memory, its node lost, ...) is raised as a `RayActorError`.
    """
    try:
        return await reference
    except RayError as error:
        raise _own(error) from None


def fetch(reference: Any) -> Any:
    """`result`, waiting instead of awaiting; a list of references gives a list of values."""
    try:
        return ray.get(reference)
    except RayError as error:
        raise _own(error) from None


def detached(method: Any, *args: object, **named: object) -> Any:
    """Call an actor's method as nobody's child: only `ray.cancel` of what is returned cancels it."""
    return contextvars.Context().run(method.remote, *args, **named)


async def awaited(method: Any, *args: object, **named: object) -> Any:
    """The result of an actor's method; raises as `result`."""
    reference = detached(method, *args, **named)
    try:
        return await result(reference)
    except asyncio.CancelledError:
        _cancel(reference)
        raise


async def received(method: Any, *args: object, **named: object) -> AsyncGenerator[Any]:
    """The items of an actor's async generator as they are made; raises as `result`."""
    generator = detached(method.options(num_returns="streaming"), *args, **named)
    ended = False
    try:
        async for reference in generator:
            yield await result(reference)
        ended = True
    finally:
        if not ended:
            _cancel(generator)


def _cancel(call: Any) -> None:
    """Cancel one call and none of those it made."""
    ray.cancel(call, recursive=False)


def _own(error: RayError) -> BaseException:
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, OnceEditError) else error
    if isinstance(error, (RayActorError, TaskCancelledError)):
        return error
    return ActorUnavailableError(f"{type(error).__name__}: {error}", None)
