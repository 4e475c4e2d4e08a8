"""Calls of async actor methods that are cancelled exactly when their caller is cancelled or stops reading.

Ray records which task made a call. Cancelling a task cancels its calls, their calls, and so on; Serve does this when a
client disconnects. That must not happen here: one call of a model does work for many requests, so the end of one
request must not cancel it, and a request that is cancelled twice could not clean up. So these calls are made outside of
any task.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)

from onceedit_ray.errors import OnceEditError, ProcessLostError


async def result(reference: Any) -> Any:
    """The value behind an object reference.

    An `OnceEditError` that the remote code raises is raised here unchanged. All errors of Ray that mean that the remote
    process has died (killed for memory, its node lost, ...) are raised as `RayActorError`.
    """
    try:
        return await reference
    except RayError as error:
        raise _own(error) from None


def fetch(reference: Any, seconds: float | None = None) -> Any:
    """`result` as a blocking call; a list of references gives a list of values.

    Raises `ProcessLostError` if there is no result within so many seconds.
    """
    try:
        return ray.get(reference, timeout=seconds)
    except GetTimeoutError:
        raise ProcessLostError(f"no answer of an actor within {seconds:g} s") from None
    except RayError as error:
        raise _own(error) from None


def detached(method: Any, *args: object, **named: object) -> Any:
    """Call an actor's method without a parent task: only `ray.cancel` of the returned reference cancels it."""
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
    """The items of an actor's async generator as they arrive; raises as `result`."""
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
    """Cancel one call, but not the calls that it made."""
    ray.cancel(call, recursive=False)


def _own(error: RayError) -> BaseException:
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, OnceEditError) else error
    if isinstance(error, (RayActorError, TaskCancelledError)):
        return error
    return ActorUnavailableError(f"{type(error).__name__}: {error}", None)
