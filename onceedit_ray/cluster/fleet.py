"""All actors of one system: the plug-in, the targets, the coordinators.

`Fleet.start` reserves resources, loads the models and connects them; `add_target` adds one more LLM at run time; `stop`
frees everything. The driver calls only a coordinator, which has the same methods as a decoder in one process. If a
coordinator dies, another one is started over the same models, which stay loaded (`cluster.coordinators`).
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group

from onceedit_ray.cluster.calls import fetch, received
from onceedit_ray.cluster.coordinator import Coordinator
from onceedit_ray.cluster.coordinators import Coordinators
from onceedit_ray.cluster.model_actor import ModelActor, Seat
from onceedit_ray.cluster.on_this_node import PluginWeights, Weights, sent
from onceedit_ray.cluster.placement import actor_options, node_of, reserve, reserve_all
from onceedit_ray.cluster.preflight import check_nodes
from onceedit_ray.cluster.proxy import proxy
from onceedit_ray.config import ModelConfig, PluginConfig, RunConfig
from onceedit_ray.errors import ConfigError, OnceEditError, ProcessLostError
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.engine_check import check_engines
from onceedit_ray.fusion.system import folder_of
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.progress import Progress, silent
from onceedit_ray.reader.plugin import plugin_folder

PLUGIN = "plug-in"
COORDINATOR = "(coordinator)"
"""The name of a coordinator's reservation; no target can have this name."""
COORDINATOR_SECONDS = 600.0
"""How long a coordinator that starts has for each of its targets, whose tokenizers its node may have to fetch."""
COORDINATOR_CPUS = 0.1
FORGET_SECONDS = 10.0
"""How long model actors have to close a dead coordinator's sessions; one that restarts has none."""


@dataclass(frozen=True)
class Seated:
    """The actor of a plug-in that is not active yet or not any more, and its reservation. edited: its version."""

    actor: ActorHandle
    group: PlacementGroup
    weights: Path
    edited: Version | Path


@dataclass(frozen=True)
class Joined:
    """What the coordinator gets to know of a target. beside: whether it runs on hardware of its own."""

    folder: ModelFolder
    beside: bool


@dataclass
class Fleet:
    """A running system; `Fleet.start` creates it, or `reserve` and `open` do, if something is done between them.

    config: the run. kind: the actor class of the coordinators. number: how many of them share the requests. base: the
    plug-in before any edit. folders: the targets that are loaded. weights, edited: of the plug-in that answers: its
    model folder on this node, and its version.
    """

    config: RunConfig
    kind: Any = Coordinator
    number: int = 1
    base: ModelFolder | None = None
    folders: dict[str, ModelFolder] = field(default_factory=dict)
    weights: Path | None = None
    edited: Version | Path | None = None
    joined: dict[str, Joined] = field(default_factory=dict)
    servers: dict[str, ModelConfig] = field(default_factory=dict)
    actors: dict[str, ActorHandle] = field(default_factory=dict)
    groups: dict[str, PlacementGroup] = field(default_factory=dict)
    aside: list[Seated] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.coordinators = Coordinators(self._new_coordinator, self._close_sessions, lambda: self.edited)

    @classmethod
    def start(
        cls,
        config: RunConfig,
        edited: Version | Path,
        progress: Progress = silent,
        coordinator: Any = Coordinator,
        coordinators: int = 1,
    ) -> Fleet:
        """Start every actor that `config` names, with a version of the plug-in, or that in a folder.

        A version's edits are sent to the coordinator if they lie in a fact store, which its node may be unable to open.
        coordinator: the actor class that decodes: `Coordinator`, or a class that extends it. coordinators: how many.
        Raises as `reserve` and `open`.
        """
        fleet = cls(config, coordinator, coordinators)
        try:
            fleet.reserve(progress)
            fleet.open(edited, progress)
        except BaseException:
            fleet.stop()
            raise
        return fleet

    def reserve(self, progress: Progress = silent) -> None:
        """Reserve room for all actors, and check that each of their nodes has, or can fetch, what it loads.

        Raises `ConfigError` if the cluster has no room, or if an engine cannot do what the run asks of it; `ModelError`
        if a model is not available; `StoreError` for a home that cannot be written. The message names the node.
        """
        check_engines(self.config)
        loaded = self.config.loaded_targets
        self.base = resolve(self.plugin.model, progress)
        self.folders = {name: resolve(target.model, progress) for name, target in loaded.items()}
        models = {PLUGIN: self.plugin, **loaded} | dict.fromkeys(self._places, self._seat_of_coordinator)
        self.groups |= reserve_all(models, progress=progress)
        self._check_nodes(self.base, self.folders, progress)

    def open(self, edited: Version | Path, progress: Progress = silent) -> None:
        """Load the models, on the nodes that `reserve` found for them.

        Raises `ModelError` if a model cannot be loaded, `StoreError` if a node can get the version from nowhere.
        """
        assert self.base is not None, "room is reserved first"
        self.edited, self.weights = edited, plugin_folder(folder_of(edited), self.base)
        self._check_nodes(PluginWeights(self.base, sent(edited)), {}, progress)
        self._load(PLUGIN, PluginWeights(self.base, sent(edited)), self.plugin)
        self.coordinators.open(self.number)
        self._join(self.folders, self.config.loaded_targets, progress)
        for name, target in self.config.served_targets.items():
            self.coordinators.tell_now("add_server", name, target)
            self.servers[name] = target
            progress(f"{name} is the model of the server at {target.url}")

    @property
    def plugin(self) -> PluginConfig:
        """The plug-in's entry of the run."""
        return self.config.plugin

    def _check_nodes(self, plugin: Weights, targets: Mapping[str, ModelFolder], progress: Progress = silent) -> None:
        """Check the nodes of the plug-in, of the coordinators, which need every model's tokenizer, and of `targets`."""
        needs: dict[str, list[Weights]] = {}
        seats = [(PLUGIN, plugin), *targets.items()]
        decoded = [plugin, *targets.values()]
        for name, weights in [*seats, *((place, each) for place in self._places for each in decoded)]:
            needs.setdefault(node_of(self.groups[name]), []).append(weights)
        files = {node_of(self.groups[PLUGIN]): self.config.editing.unrelated}
        check_nodes(needs, files, progress)

    @property
    def _seat_of_coordinator(self) -> ModelConfig:
        return ModelConfig(model=self.plugin.model, num_cpus=COORDINATOR_CPUS)

    @property
    def _places(self) -> list[str]:
        """The names of the coordinators' reservations."""
        return [COORDINATOR, *(f"{COORDINATOR} {number}" for number in range(2, self.number + 1))]

    @property
    def coordinator(self) -> ActorHandle:
        """The first of the coordinators."""
        return self.coordinators.handles[0]

    def _new_coordinator(self, at: int, owner: str) -> ActorHandle:
        """A coordinator over the models that are loaded, with the version that answers, on reservation `at`."""
        options = actor_options(self.groups[self._places[at]], self._seat_of_coordinator) | {"max_restarts": 0}
        assert self.edited is not None, "the version is known first"
        edited = sent(_with_edits(self.edited))
        coordinator = self.kind.options(**options).remote(
            self.actors[PLUGIN], self.base, edited, self.plugin.view, self.config.fusion, self.config.alignment, owner
        )
        try:
            for name, target in self.joined.items():
                joining = coordinator.add_target.remote(name, self.actors[name], target.folder, target.beside)
                fetch(joining, COORDINATOR_SECONDS)
            for name, server in list(self.servers.items()):  # one may be added meanwhile
                fetch(coordinator.add_server.remote(name, server), COORDINATOR_SECONDS)
        except ProcessLostError:  # it may never start: its node is lost, and no other has room
            ray.kill(coordinator)
            raise
        return coordinator

    def _close_sessions(self, owner: str) -> None:
        closing = [actor.forget.remote(owner) for actor in self.actors.values()]
        ray.wait(closing, num_returns=len(closing), timeout=FORGET_SECONDS)

    def add_target(self, name: str, config: ModelConfig, progress: Progress = silent) -> None:
        """Add one more LLM: an actor and an alignment. It answers with all edits made so far; no edit is run.

        Raises `ConfigError` if the name is taken or the cluster has no room, `ModelError` if the model is not available
        or cannot be loaded; the fleet is then unchanged.
        """
        if name in self.actors:
            raise ConfigError(f"there is a model called '{name}' already; choose another name for {config.model}")
        folder = resolve(config.model, progress)
        try:
            self.groups[name] = reserve(name, config)
            assert self.base is not None, "the fleet is started first"
            self._check_nodes(self.base, {name: folder})
            self._join({name: folder}, {name: config}, progress)
        except BaseException:
            self._remove(name)
            raise

    async def add_server(self, name: str, config: ModelConfig) -> None:
        """Add a target that a server has; a coordinator that is started later knows it, too."""
        self.servers[name] = config
        try:
            await self.coordinators.tell("add_server", name, config)
        except BaseException:
            del self.servers[name]
            with contextlib.suppress(OnceEditError):
                await self.coordinators.tell("remove_server", name)
            raise

    async def remove_server(self, name: str) -> None:
        """Remove a target that a server has; its answers under way end as they would."""
        self.servers.pop(name, None)
        await self.coordinators.tell("remove_server", name)

    def load_plugin(self, edited: Version | Path) -> Seated:
        """Load another version of the plug-in beside the active one, and prepare the coordinators for it.

        Raises `ConfigError` if the cluster has no room for it, `ModelError` if it cannot be loaded; the fleet is then
        unchanged.
        """
        assert self.base is not None, "the fleet is started first"
        weights = plugin_folder(folder_of(edited), self.base)
        group = reserve(PLUGIN, self.plugin)
        options = actor_options(group, self.plugin)
        actor = ModelActor.options(**options).remote(
            PLUGIN, PluginWeights(self.base, sent(edited)), self.plugin, self.config.fusion.top_k
        )
        seated = Seated(actor, group, weights, edited)
        self.aside.append(seated)
        try:
            fetch(seated.actor.seat.remote())
            self.coordinators.tell_now("stand_by", seated.actor, sent(_with_edits(edited)))
        except BaseException:
            self.discard(seated)
            raise
        return seated

    def promote(self, seated: Seated) -> Seated:
        """Record the plug-in that took over; returns the previous one, to be discarded when its requests have ended."""
        assert self.weights is not None and self.edited is not None, "the fleet is started first"
        before = Seated(self.actors[PLUGIN], self.groups[PLUGIN], self.weights, self.edited)
        self.actors[PLUGIN], self.groups[PLUGIN] = seated.actor, seated.group
        self.weights, self.edited = seated.weights, seated.edited
        self.aside.remove(seated)
        self.aside.append(before)
        return before

    def discard(self, seated: Seated) -> None:
        """End the actor of a plug-in that is not active any more, and free its reservation."""
        if seated in self.aside:
            self.aside.remove(seated)
            ray.kill(seated.actor)
            remove_placement_group(seated.group)

    def _load(self, name: str, weights: Weights, config: ModelConfig) -> ActorHandle:
        options = actor_options(self.groups[name], config)
        self.actors[name] = ModelActor.options(**options).remote(name, weights, config, self.config.fusion.top_k)
        return self.actors[name]

    def _join(self, folders: Mapping[str, ModelFolder], configs: Mapping[str, ModelConfig], progress: Progress) -> None:
        """Load targets in parallel, then add them to the coordinators."""
        for name, folder in folders.items():
            self._load(name, folder, configs[name])
        for name, folder in folders.items():
            seat = self.seat(name)
            target = Joined(folder, configs[name].num_gpus > 0)
            self.joined[name] = target  # before: a coordinator that is started meanwhile has it, too
            told = self.coordinators.tell_now("add_target", name, self.actors[name], target.folder, target.beside)
            note = told[0]
            progress(
                f"{name} is up (process {seat.process}, GPUs {', '.join(seat.gpu_ids) or 'none'}){note and f'; {note}'}"
            )

    def _remove(self, name: str) -> None:
        self.joined.pop(name, None)
        if name in self.actors:
            ray.kill(self.actors.pop(name))
        if name in self.groups:
            remove_placement_group(self.groups.pop(name))

    def prepare(self, strategies: Sequence[str], progress: Progress = silent) -> None:
        """Build or load the alignments that `strategies` need, for every target, before times are measured."""
        for name in self.actors:
            if name != PLUGIN:
                progress(f"aligning the plug-in with {name}")
                for strategy in strategies:
                    self.coordinators.tell_now("restriction", name, strategy)

    def seat(self, name: str) -> Seat:
        """The process and GPUs of the actor of a target, or of `PLUGIN`."""
        return fetch(self.actors[name].seat.remote())

    @property
    def answerer(self) -> FusedDecoder:
        """A coordinator's decoder, for an evaluation; a call is made again if the coordinator dies."""

        def call(name: str, *args: object, **named: object) -> Any:
            if inspect.isasyncgenfunction(getattr(FusedDecoder, name)):
                return received(getattr(self.coordinator, name), *args, **named)
            return self.coordinators.ask_again(name, *args, **named)  # type: ignore[arg-type]

        return proxy(FusedDecoder, call)

    def stop(self) -> None:
        """End all actors and free their reservations."""
        self.coordinators.stop()
        for seated in list(self.aside):
            self.discard(seated)
        for name in list(self.groups):
            self._remove(name)


def _with_edits(edited: Version | Path) -> Version | Path:
    return edited.load() if isinstance(edited, Version) else edited
