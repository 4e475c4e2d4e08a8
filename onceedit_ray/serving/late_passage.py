"""The `Passage` of an ingress, made when there is a first target of a server.

A passage reads answers along, for which it needs the models' libraries. Importing them takes seconds, so an ingress
without such targets does not import them.
"""

from __future__ import annotations

import asyncio
import importlib

from starlette.types import ASGIApp, Receive, Scope, Send

from onceedit_ray.errors import OnceEditError
from onceedit_ray.serving.backend import Backend
from onceedit_ray.serving.engine_requests import ROUTES
from onceedit_ray.serving.limits import Limits


class LatePassage:
    """Args: those of `Passage`."""

    def __init__(self, app: ASGIApp, backend: Backend, limits: Limits) -> None:
        self._app = app
        self._backend = backend
        self._limits = limits
        self._passage: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") in ROUTES and self._passage is None and await self._is_needed():
            module = await asyncio.to_thread(importlib.import_module, "onceedit_ray.serving.passage")
            self._passage = self._passage or module.Passage(self._app, self._backend, self._limits)
        await (self._passage or self._app)(scope, receive, send)

    async def _is_needed(self) -> bool:
        try:
            return bool(await self._backend.served())
        except OnceEditError:
            return True  # the passage answers with the error
