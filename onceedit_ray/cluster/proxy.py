"""A proxy for an object in another process: one class for all kinds of remote objects.

The type checker sees the class of the remote object; a call of a method that the class lacks fails in this process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from ray.actor import ActorHandle

from onceedit_ray.cluster.calls import awaited, received

T = TypeVar("T")


class _Proxy:
    def __init__(self, kind: type, call: Callable[..., Any]) -> None:
        self._kind, self._call = kind, call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or not callable(getattr(self._kind, name, None)):
            raise AttributeError(f"{self._kind.__name__} has no method '{name}' that can be called from here")
        return partial(self._call, name)


def proxy(kind: type[T], call: Callable[..., Any]) -> T:
    """A proxy with the async methods of class `kind`; `call` takes a method's name and its arguments."""
    return cast(T, _Proxy(kind, call))


def actor_proxy(kind: type[T], actor: ActorHandle) -> T:
    """A proxy for an actor of class `kind`; cancelling the caller also cancels the call in the actor."""

    def call(name: str, *args: object, **named: object) -> Any:
        carried = received if inspect.isasyncgenfunction(getattr(kind, name)) else awaited
        return carried(getattr(actor, name), *args, **named)

    return proxy(kind, call)
