"""Builds each version in its own process, which has a lower CPU priority than the processes that answer requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import remove_placement_group

from onceedit_ray.cluster.calls import received
from onceedit_ray.cluster.on_this_node import SentVersion, have_version, names_the_node, sent, version_here
from onceedit_ray.cluster.placement import actor_options, node_of, reserve
from onceedit_ray.config import ModelConfig, RunConfig
from onceedit_ray.errors import ProcessLostError
from onceedit_ray.fusion.system import folder_of
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.build_version import BuiltVersion, Phase, Report, build_version
from onceedit_ray.threads import SLEEPING

PhaseProgress = tuple[Phase, float]


class Trainer:
    """An actor that builds one version in its process."""

    async def make(
        self, config: RunConfig, edits: Sequence[Edit], parent: SentVersion | None, new: Sequence[Edit]
    ) -> AsyncGenerator[PhaseProgress | BuiltVersion]:
        """As `build_version.build_version`: yields progress, and at the end the version."""
        told: asyncio.Queue[PhaseProgress | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(step: Phase, share: float) -> None:
            loop.call_soon_threadsafe(told.put_nowait, (step, share))

        def work() -> BuiltVersion:
            # Not in the constructor: on Linux niceness belongs to a thread, and threads started here inherit it.
            os.nice(max(config.living.niceness - os.nice(0), 0))
            store = open_store()
            with names_the_node():
                begun = store.get(folder_of(version_here(parent)).name) if parent else None
                return build_version(config, store, edits, begun, new, tell)

        making = asyncio.ensure_future(asyncio.to_thread(work))
        making.add_done_callback(lambda _: told.put_nowait(None))
        while (progress := await told.get()) is not None:
            yield progress
        yield await making


TrainerActor = ray.remote(max_restarts=0, runtime_env={"env_vars": SLEEPING})(Trainer)


class RemoteBuilder:
    """Implements `edit_queue.VersionBuilder`: starts a `Trainer` with its own reservation for each version."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    async def make(
        self, edits: Sequence[Edit], parent: Version | None, new: Sequence[Edit], report: Report
    ) -> BuiltVersion:
        """As `build_version`; raises `ConfigError` if there is no room, `ProcessLostError` if the process dies."""
        living = self._config.living
        needs = ModelConfig(model=self._config.plugin.model, num_cpus=living.num_cpus, num_gpus=living.num_gpus)
        group = await asyncio.to_thread(reserve, "editing", needs)
        trainer = TrainerActor.options(**actor_options(group, needs) | {"max_restarts": 0}).remote()
        try:
            asked = (self._config, list(edits), sent(parent) if parent else None, list(new))
            async with contextlib.aclosing(received(trainer.make, *asked)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, BuiltVersion):
                        if piece.reason is None:
                            await asyncio.to_thread(have_version, piece.version, node_of(group))
                        return piece
                    report(*piece)
        except RayActorError as error:
            reason = " ".join(str(error).split())[:200]
            raise ProcessLostError(
                f"the process that makes versions died ({reason}); see its log, then edit again"
            ) from None
        finally:
            ray.kill(trainer)
            remove_placement_group(group)
        raise AssertionError("a trainer ends with what it made")
