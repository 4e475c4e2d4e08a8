"""All actors of one system: the plug-in, the targets, the coordinator.

`Fleet.start` reserves resources, loads the models and connects them; `add_target` adds one more LLM at run time; `stop`
frees everything. The driver calls only the coordinator, which has the same methods as a decoder in one process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group

from onceedit_ray.cluster.calls import fetch
from onceedit_ray.cluster.coordinator import Coordinator
from onceedit_ray.cluster.model_actor import ModelActor, Seat
from onceedit_ray.cluster.placement import actor_options, reserve
from onceedit_ray.cluster.proxy import actor_proxy
from onceedit_ray.config import ModelConfig, PluginConfig, RunConfig
from onceedit_ray.errors import ConfigError
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.engine_check import check_engines
from onceedit_ray.fusion.system import folder_of
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.progress import Progress, silent
from onceedit_ray.reader.plugin import plugin_folder

PLUGIN = "plug-in"
COORDINATOR = "(coordinator)"
"""Whose reservation it is; no target can be called so."""
COORDINATOR_CPUS = 0.1


@dataclass(frozen=True)
class Seated:
    """The actor of a plug-in that is not active yet or not any more, and its reservation."""

    actor: ActorHandle
    group: PlacementGroup
    weights: Path


@dataclass
class Fleet:
    """A running system; `Fleet.start` creates it."""

    top_k: int
    plugin: PluginConfig
    base: ModelFolder | None = None
    weights: Path | None = None
    coordinator: Any = None  # an actor handle, once started
    actors: dict[str, ActorHandle] = field(default_factory=dict)
    groups: dict[str, PlacementGroup] = field(default_factory=dict)
    aside: list[Seated] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        config: RunConfig,
        edited: Version | Path,
        progress: Progress = silent,
        coordinator: Any = Coordinator,
    ) -> Fleet:
        """Start every actor that `config` names, with a version of the plug-in, or that in a folder.

        A version's edits are sent to the coordinator if they lie in a fact store, which its node may be unable to open.
        coordinator: the actor class that decodes: `Coordinator`, or a class that extends it.
        Raises `ConfigError` if the cluster has no room, or if an engine cannot do what the run asks of it; `ModelError`
        if a model is not available.
        """
        check_engines(config)
        loaded = config.loaded_targets
        base = resolve(config.plugin.model, progress)
        models = {PLUGIN: config.plugin, **loaded}
        seat = ModelConfig(model=config.plugin.model, num_cpus=COORDINATOR_CPUS)
        folders = {name: resolve(target.model, progress) for name, target in loaded.items()}
        fleet = cls(config.fusion.top_k, config.plugin)
        try:
            fleet._reserve({**models, COORDINATOR: seat})
            fleet.base = base
            fleet.weights = plugin_folder(folder_of(edited), base)
            plugin = fleet._load(PLUGIN, fleet.weights, config.plugin)
            options = actor_options(fleet.groups[COORDINATOR], seat) | {"max_restarts": 0}
            fleet.coordinator = coordinator.options(**options).remote(
                plugin, base, _with_edits(edited), config.plugin.view, config.fusion, config.alignment
            )
            fleet._join(folders, loaded, progress)
            for name, target in config.served_targets.items():
                fetch(fleet.coordinator.add_server.remote(name, target))
                progress(f"{name} is the model of the server at {target.url}")
        except BaseException:
            fleet.stop()
            raise
        return fleet

    def add_target(self, name: str, config: ModelConfig, progress: Progress = silent) -> None:
        """Add one more LLM: an actor and an alignment. It answers with all edits made so far; no edit is run.

        Raises `ConfigError` if the name is taken or the cluster has no room, `ModelError` if the model is not available
        or cannot be loaded; the fleet is then unchanged.
        """
        if name in self.actors:
            raise ConfigError(f"there is a model called '{name}' already; choose another name for {config.model}")
        folder = resolve(config.model, progress)
        try:
            self._reserve({name: config})
            self._join({name: folder}, {name: config}, progress)
        except BaseException:
            self._remove(name)
            raise

    def load_plugin(self, edited: Version | Path) -> Seated:
        """Load another version of the plug-in beside the active one, and prepare the coordinator for it.

        Raises `ConfigError` if the cluster has no room for it, `ModelError` if it cannot be loaded; the fleet is then
        unchanged.
        """
        assert self.base is not None, "the fleet is started first"
        weights = plugin_folder(folder_of(edited), self.base)
        group = reserve(PLUGIN, self.plugin)
        options = actor_options(group, self.plugin)
        seated = Seated(ModelActor.options(**options).remote(PLUGIN, weights, self.plugin, self.top_k), group, weights)
        self.aside.append(seated)
        try:
            fetch(seated.actor.seat.remote())
            fetch(self.coordinator.stand_by.remote(seated.actor, _with_edits(edited)))
        except BaseException:
            self.discard(seated)
            raise
        return seated

    def promote(self, seated: Seated) -> Seated:
        """Record the plug-in that took over; returns the previous one, to be discarded when its requests have ended."""
        assert self.weights is not None, "the fleet is started first"
        before = Seated(self.actors[PLUGIN], self.groups[PLUGIN], self.weights)
        self.actors[PLUGIN], self.groups[PLUGIN], self.weights = seated.actor, seated.group, seated.weights
        self.aside.remove(seated)
        self.aside.append(before)
        return before

    def discard(self, seated: Seated) -> None:
        """End the actor of a plug-in that is not active any more, and free its reservation."""
        if seated in self.aside:
            self.aside.remove(seated)
            ray.kill(seated.actor)
            remove_placement_group(seated.group)

    def _reserve(self, models: Mapping[str, ModelConfig]) -> None:
        """Reserve room, the largest first: a small model could take a GPU of the only node that fits a large one."""
        for name in sorted(models, key=lambda name: -models[name].num_gpus):
            self.groups[name] = reserve(name, models[name])

    def _load(self, name: str, folder: Path, config: ModelConfig) -> ActorHandle:
        options = actor_options(self.groups[name], config)
        self.actors[name] = ModelActor.options(**options).remote(name, folder, config, self.top_k)
        return self.actors[name]

    def _join(self, folders: Mapping[str, ModelFolder], configs: Mapping[str, ModelConfig], progress: Progress) -> None:
        """Load targets in parallel, then add them to the coordinator."""
        for name, folder in folders.items():
            self._load(name, folder.path, configs[name])
        for name, folder in folders.items():
            seat = self.seat(name)
            fetch(self.coordinator.add_target.remote(name, self.actors[name], folder, configs[name].num_gpus > 0))
            progress(f"{name} is up (process {seat.process}, GPUs {', '.join(seat.gpu_ids) or 'none'})")

    def _remove(self, name: str) -> None:
        if name in self.actors:
            ray.kill(self.actors.pop(name))
        if name in self.groups:
            remove_placement_group(self.groups.pop(name))

    def prepare(self, strategies: Sequence[str], progress: Progress = silent) -> None:
        """Build or load the alignments that `strategies` need, for every target, before times are measured."""
        for name in self.actors:
            if name != PLUGIN:
                progress(f"aligning the plug-in with {name}")
                fetch([self.coordinator.restriction.remote(name, strategy) for strategy in strategies])

    def seat(self, name: str) -> Seat:
        """The process and GPUs of the actor of a target, or of `PLUGIN`."""
        return fetch(self.actors[name].seat.remote())

    @property
    def answerer(self) -> FusedDecoder:
        """The coordinator's decoder, for an evaluation."""
        return actor_proxy(FusedDecoder, self.coordinator)

    def stop(self) -> None:
        """End all actors and free their reservations."""
        if self.coordinator is not None:
            ray.kill(self.coordinator)
        for seated in list(self.aside):
            self.discard(seated)
        for name in list(self.groups):
            self._remove(name)


def _with_edits(edited: Version | Path) -> Version | Path:
    return edited.load() if isinstance(edited, Version) else edited
