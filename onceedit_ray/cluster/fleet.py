"""All actors of one system: the plug-in, the targets, the coordinator.

Life: `Fleet.start` reserves, loads and connects; `add_target` takes in one more LLM at run time; `stop` gives
everything back. The driver talks to the coordinator alone, through the same methods that a decoder in one process has.
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
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.progress import Progress, silent
from onceedit_ray.reader.plugin import plugin_folder

PLUGIN = "plug-in"


@dataclass(frozen=True)
class Seated:
    """A plug-in's actor that does not answer, or not for long any more, and its reservation."""

    actor: ActorHandle
    group: PlacementGroup
    weights: Path


@dataclass
class Fleet:
    """A running system; make one with `Fleet.start`."""

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
        edited: Path,
        progress: Progress = silent,
        coordinator: Any = Coordinator,
    ) -> Fleet:
        """Start every actor `config` names, with the plug-in version in folder `edited`.

        coordinator: the actor class that decodes: `Coordinator`, or one that adds to it.
        Raises `ConfigError` where the cluster has no room, `ModelError` where a model cannot be had.
        """
        base = resolve(config.plugin.model, progress)
        models = {PLUGIN: config.plugin, **config.targets}
        folders = {name: resolve(target.model, progress) for name, target in config.targets.items()}
        fleet = cls(config.fusion.top_k, config.plugin)
        try:
            fleet._reserve(models)
            fleet.base = base
            fleet.weights = plugin_folder(edited, base)
            plugin = fleet._load(PLUGIN, fleet.weights, config.plugin)
            fleet.coordinator = coordinator.options(num_cpus=0.1).remote(
                plugin, base, edited, config.plugin.view, config.fusion, config.alignment
            )
            fleet._join(folders, config.targets, progress)
        except BaseException:
            fleet.stop()
            raise
        return fleet

    def add_target(self, name: str, config: ModelConfig, progress: Progress = silent) -> None:
        """Take in one more LLM: an actor and an alignment. It answers with all edits made so far; no edit is run.

        Raises `ConfigError` where the name is taken or the cluster has no room, `ModelError` where the model cannot be
        had or loaded; the fleet is then what it was.
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

    def load_plugin(self, edited: Path) -> Seated:
        """Load another version of the plug-in beside the one that answers, and make the coordinator ready for it.

        Raises `ConfigError` where the cluster has no room for it, `ModelError` where it cannot be loaded; the fleet is
        then what it was.
        """
        assert self.base is not None, "the fleet is started first"
        weights = plugin_folder(edited, self.base)
        group = reserve(PLUGIN, self.plugin)
        options = actor_options(group, self.plugin)
        seated = Seated(ModelActor.options(**options).remote(PLUGIN, weights, self.plugin, self.top_k), group, weights)
        self.aside.append(seated)
        try:
            fetch(seated.actor.seat.remote())
            fetch(self.coordinator.stand_by.remote(seated.actor, edited))
        except BaseException:
            self.discard(seated)
            raise
        return seated

    def promote(self, seated: Seated) -> Seated:
        """Take in the plug-in that took over; the one before, which is to be discarded when its requests are done."""
        assert self.weights is not None, "the fleet is started first"
        before = Seated(self.actors[PLUGIN], self.groups[PLUGIN], self.weights)
        self.actors[PLUGIN], self.groups[PLUGIN], self.weights = seated.actor, seated.group, seated.weights
        self.aside.remove(seated)
        self.aside.append(before)
        return before

    def discard(self, seated: Seated) -> None:
        """End a plug-in that does not answer any more and free its reservation."""
        if seated in self.aside:
            self.aside.remove(seated)
            ray.kill(seated.actor)
            remove_placement_group(seated.group)

    def _reserve(self, models: Mapping[str, ModelConfig]) -> None:
        """Reserve room for each, the largest first: a small one could take a GPU of the only node that fits a large."""
        for name in sorted(models, key=lambda name: -models[name].num_gpus):
            self.groups[name] = reserve(name, models[name])

    def _load(self, name: str, folder: Path, config: ModelConfig) -> ActorHandle:
        options = actor_options(self.groups[name], config)
        self.actors[name] = ModelActor.options(**options).remote(name, folder, config, self.top_k)
        return self.actors[name]

    def _join(self, folders: Mapping[str, ModelFolder], configs: Mapping[str, ModelConfig], progress: Progress) -> None:
        """Load targets in parallel, then let the coordinator take them in."""
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
        """Build or load the alignments that `strategies` need, on every target, before anything is timed."""
        for name in self.actors:
            if name != PLUGIN:
                progress(f"aligning the plug-in with {name}")
                fetch([self.coordinator.restriction.remote(name, strategy) for strategy in strategies])

    def seat(self, name: str) -> Seat:
        """Where the actor of a target, or of `PLUGIN`, runs."""
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
