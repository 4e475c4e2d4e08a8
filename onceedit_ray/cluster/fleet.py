"""All actors of one system: the plug-in, the targets, the coordinator.

Life: `Fleet.start` reserves, loads and connects; `add_target` takes in one more LLM at run time; `stop` gives
everything back. The driver talks to the coordinator alone, through the same methods that a decoder in one process has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group

from onceedit_ray.cluster.actors import ModelActor, Seat
from onceedit_ray.cluster.coordinator import Coordinator
from onceedit_ray.cluster.placement import actor_options, reserve
from onceedit_ray.cluster.results import fetch, result
from onceedit_ray.config import ModelConfig, RunConfig
from onceedit_ray.fusion.decoder import Generation, Score
from onceedit_ray.models.sources import resolve

PLUGIN = "plug-in"


@dataclass
class Fleet:
    """A running system; make one with `Fleet.start`."""

    coordinator: ActorHandle
    top_k: int
    actors: dict[str, ActorHandle] = field(default_factory=dict)
    groups: list[PlacementGroup] = field(default_factory=list)

    @classmethod
    def start(cls, config: RunConfig, edited: Path, progress: Callable[[str], None] = lambda line: None) -> Fleet:
        """Start every actor `config` names, with the plug-in version in folder `edited`.

        Raises `ConfigError` where the cluster has no room, `ModelError` where a model cannot be had.
        """
        base = resolve(config.plugin.model, progress)
        group, plugin = _place(PLUGIN, edited, config.plugin, config.fusion.top_k)
        coordinator = Coordinator.options(num_cpus=0.1).remote(
            plugin, base, edited, config.plugin.view, config.fusion, config.alignment
        )
        fleet = cls(coordinator, config.fusion.top_k, {PLUGIN: plugin}, [group])
        fleet.add_targets(config.targets, progress)
        return fleet

    def add_target(self, name: str, config: ModelConfig, progress: Callable[[str], None] = lambda line: None) -> None:
        """Take in one more LLM: an actor and an alignment. It answers with all edits made so far; no edit is run."""
        self.add_targets({name: config}, progress)

    def add_targets(self, configs: Mapping[str, ModelConfig], progress: Callable[[str], None]) -> None:
        """Take in several, loaded in parallel."""
        joining = []
        for name, config in configs.items():
            folder = resolve(config.model, progress)
            group, actor = _place(name, folder.path, config, self.top_k)
            self.groups.append(group)
            self.actors[name] = actor
            joining.append(self.coordinator.add_target.remote(name, actor, folder))
        fetch(joining)
        for name in configs:
            seat = self.seat(name)
            progress(f"{name} is up (process {seat.process}, GPUs {', '.join(seat.gpu_ids) or 'none'})")

    def prepare(self, strategies: Sequence[str], progress: Callable[[str], None] = lambda line: None) -> None:
        """Build or load the alignments that `strategies` need, on every target, before anything is timed."""
        for name in self.actors:
            if name != PLUGIN:
                progress(f"aligning the plug-in with {name}")
                fetch([self.coordinator.restriction.remote(name, strategy) for strategy in strategies])

    def seat(self, name: str) -> Seat:
        """Where the actor of a target, or of `PLUGIN`, runs."""
        return fetch(self.actors[name].seat.remote())

    @property
    def answerer(self) -> RemoteDecoder:
        """The decoder, for an evaluation."""
        return RemoteDecoder(self.coordinator)

    def stop(self) -> None:
        """End all actors and free their reservations."""
        for actor in (self.coordinator, *self.actors.values()):
            ray.kill(actor)
        for group in self.groups:
            remove_placement_group(group)


class RemoteDecoder:
    """The coordinator's decoder, with the methods of `evaluation.evaluate.Answerer`."""

    def __init__(self, coordinator: ActorHandle) -> None:
        self._coordinator = coordinator

    async def generate(
        self, target: str, prompt: str, strategy: str | None = None, max_new_tokens: int | None = None
    ) -> Generation:
        """As `FusedDecoder.generate`."""
        return await self._ask("generate", target, prompt, strategy, max_new_tokens)

    async def score(self, target: str, prompt: str, gold: Sequence[int], strategy: str | None = None) -> Score:
        """As `FusedDecoder.score`."""
        return await self._ask("score", target, prompt, gold, strategy)

    async def gate(self, prompt: str) -> float:
        """As `FusedDecoder.gate`."""
        return await self._ask("gate", prompt)

    async def render(self, target: str, question: str, shape: str) -> str:
        """As `FusedDecoder.render`."""
        return await self._ask("render", target, question, shape)

    async def gold(self, target: str, prompt: str, answer: str) -> tuple[int, ...]:
        """As `FusedDecoder.gold`."""
        return await self._ask("gold", target, prompt, answer)

    async def text(self, target: str, ids: Sequence[int]) -> str:
        """As `FusedDecoder.text`."""
        return await self._ask("text", target, ids)

    async def restriction(self, target: str, strategy: str) -> str:
        """As `FusedDecoder.restriction`."""
        return await self._ask("restriction", target, strategy)

    async def _ask(self, method: str, *args: object) -> Any:
        return await result(getattr(self._coordinator, method).remote(*args))


def _place(name: str, folder: Path, config: ModelConfig, top_k: int) -> tuple[PlacementGroup, ActorHandle]:
    group = reserve(name, config)
    return group, ModelActor.options(**actor_options(group, config)).remote(name, folder, config, top_k)
