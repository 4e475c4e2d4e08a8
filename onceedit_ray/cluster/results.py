"""Results of remote calls, with the user's errors as they were raised."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayTaskError

from onceedit_ray.errors import OnceEditError


async def result(reference: Any) -> Any:
    """The value behind an object reference; a `OnceEditError` raised over there is raised here as itself."""
    try:
        return await reference
    except RayTaskError as error:
        raise _own(error) from None


def fetch(reference: Any) -> Any:
    """`result`, waiting instead of awaiting; a list of references gives a list of values."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise _own(error) from None


def _own(error: RayTaskError) -> BaseException:
    return error.cause if isinstance(error.cause, OnceEditError) else error
