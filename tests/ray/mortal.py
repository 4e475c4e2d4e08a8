"""A model actor in this process, which dies in every way in which a real one may die; `folder` holds a tiny Mistral."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError

from onceedit_ray.cluster.model_actor import HostedModel
from tests.ray.small_fleet import model

TOP_K = 8


class Method:
    """`actor.method`, of which Ray offers `remote`."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call

    def remote(self, *args: object) -> Awaitable[Any]:
        return asyncio.ensure_future(self._call(*args))


class Mortal:
    """A fake actor handle. `die` loses all sessions; calls fail until it is back, or always if it does not restart.

    settings: of the model's entry in a run file.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._folder = folder
        self._config = model(folder, "mistral").model_copy(update=settings)
        self._away = 0
        self.gone = False
        self.killed = 0
        self._live()
        self.serve = Method(self._calls("serve"))
        self.rest = Method(self._calls("rest"))
        self.abandon = Method(self._calls("abandon"))
        self.close = Method(self._calls("close"))

    def _live(self) -> None:
        self.hosted = HostedModel("mortal", self._folder / "mistral", self._config, TOP_K)

    def die(self, away: int = 1) -> None:
        """Restart; the next `away` calls come too early."""
        self._live()
        self._away = away

    def _calls(self, method: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: object) -> Any:
            if self.gone:
                raise ActorDiedError
            if self.killed and method != "close":
                self.killed -= 1
                raise OutOfMemoryError("Task was killed due to the node running low on memory")
            if self._away and method != "close":  # nobody waits for a close
                self._away -= 1
                raise ActorUnavailableError("restarting", None)
            return await getattr(self.hosted, method)(*args)

        return call
