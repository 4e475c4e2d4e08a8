"""A proxy for an object in another process: one class for all kinds of remote objects.

The type checker sees the class of the remote object; a call of a method that the class lacks fails in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

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
