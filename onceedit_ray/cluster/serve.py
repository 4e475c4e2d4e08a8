"""The Ray Serve application: one deployment that owns the models, and the HTTP ingress in front of its coordinator.

    proxy → Gateway (the ingress; any number of replicas) → coordinator actors → model actors
                                          Models (one replica: starts, watches and stops the fleet)

A new or additional ingress replica loads no model. Requests and answers are sent as text; the coordinator tokenises.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.serve import Application

from onceedit_ray.cluster.calls import result
from onceedit_ray.cluster.command_output import output_stream
from onceedit_ray.cluster.coordinator import HostedDecoder
from onceedit_ray.cluster.fleet import Fleet
from onceedit_ray.cluster.followed import News, ToldFacts
from onceedit_ray.cluster.gateway import SMALL, GatewayDeployment
from onceedit_ray.cluster.hot_swap import open_living, served_version
from onceedit_ray.cluster.model_actor import Load
from onceedit_ray.cluster.on_this_node import have_version
from onceedit_ray.cluster.serve_args import ServeArgs
from onceedit_ray.cluster.telemetry import VersionGauge
from onceedit_ray.config import ModelConfig, RunConfig
from onceedit_ray.editing.run import answering_version, own_version
from onceedit_ray.editing.served_run import run_of
from onceedit_ray.errors import ModelError, ProcessLostError
from onceedit_ray.fusion.engine_answer import Event
from onceedit_ray.fusion.engine_check import check_engines
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.knowledge.revision import Change
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.sampling import GREEDY
from onceedit_ray.progress import Count
from onceedit_ray.serving.any_target import (
    answer,
    check_removable,
    probe,
    relay,
    served,
    speak,
    targets,
    try_server,
)
from onceedit_ray.serving.backend import PROBE_SECONDS
from onceedit_ray.serving.engine_keys import EngineKeys
from onceedit_ray.serving.engine_requests import EngineRequest
from onceedit_ray.serving.followers import NOTHING, Followers
from onceedit_ray.serving.generation_request import BUSY, GenerationEnd, GenerationRequest
from onceedit_ray.serving.logprobs import Piece

LOG = logging.getLogger(__name__)
APP_NAME = "onceedit"
WATCH_SECONDS = 2.0
HEALTH_SECONDS = 10.0
CHECK_SECONDS = 90.0
"""How long Serve waits for `check_health`, three times, before it loads every model again; a death is seen at once."""
SILENT_SECONDS = 300.0
SPARE_REQUESTS = 64
"""Requests that a replica accepts beyond its limit, so that it can refuse them itself with 429."""


def application(args: ServeArgs) -> Application:
    """The application; raises `ConfigError` if the run file is wrong. Nothing is loaded yet."""
    config = run_of(args.config, args.servers)
    return bound(args, config, args.version or own_version(config, open_store()).id)


def bound(args: ServeArgs, config: RunConfig, own: str, output: Path | None = None) -> Application:
    """The application of `config`, the run of `args`, whose own version is `own`: read where the run file's files are.

    output: the pipe of `command_output` to which the replicas write; None writes to their own standard output.
    """
    most = args.limits.in_flight + SPARE_REQUESTS
    models = ModelsDeployment.bind(config, args.version, own, output, args.coordinators)
    return GatewayDeployment.options(num_replicas=args.replicas, max_ongoing_requests=most).bind(
        models, args, EngineKeys(args.engine_keys, config.served_targets), output
    )


class SpeakingDecoder(HostedDecoder):
    """A coordinator of a served fleet: it takes requests as text and returns answers as text."""

    def __init__(self, *args: Any) -> None:
        self._version = VersionGauge()
        self._name = uuid.uuid4().hex
        self._followers = Followers()
        self._told = ToldFacts()
        super().__init__(*args)

    @property
    def plugin(self) -> Plugin:
        """The plug-in that new requests use; setting it also updates the version in the metrics."""
        return self._plugin

    @plugin.setter
    def plugin(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._version.show(plugin.version)
        self._told.replaced(self._followers.changed())

    async def take_facts(self, change: Change, version: str) -> int:
        """As `HostedDecoder.take_facts`; returns when no gateway screens with the facts before."""
        number = await super().take_facts(change, version)
        await self._followers.known()
        return number

    async def take_over(self, change: Change | None = None) -> int:
        """As `HostedDecoder.take_over`; returns when no gateway screens with the version before."""
        number = await super().take_over()
        if change is not None:
            self._told.changed(change, self._followers.revision)
        await self._followers.known()
        return number

    async def add_server(self, name: str, config: ModelConfig) -> None:
        """As `HostedDecoder.add_server`; returns when every gateway knows it."""
        await super().add_server(name, config)
        await self._changed()

    async def remove_server(self, name: str) -> None:
        """As `HostedDecoder.remove_server`; returns when every gateway knows it."""
        await super().remove_server(name)
        await self._changed()

    async def _changed(self) -> None:
        self._followers.changed()
        await self._followers.known()

    async def news(self, copy: str, coordinator: str, revision: int, facts_at: int) -> News:
        """The state, for the copy of a gateway, as soon as it is another than a revision of a coordinator's.

        facts_at: the revision of that coordinator's facts which the copy has.
        """
        known, facts_at = (revision, facts_at) if coordinator == self._name else (NOTHING, NOTHING)
        await self._followers.news(copy, known)
        now = self._followers.revision
        facts = self.plugin.facts if self.servers else None
        return News(self._name, now, await self.served(), self._told.since(facts_at, now, facts))

    async def served(self) -> dict[str, ModelConfig]:
        """As `any_target.served`."""
        return served(self)

    async def try_server(self, name: str, config: ModelConfig) -> str:
        """As `any_target.try_server`."""
        return await try_server(self, name, config)

    async def check_removable(self, name: str) -> None:
        """As `any_target.check_removable`."""
        check_removable(self, name)

    async def targets(self) -> list[str]:
        """The names of the targets."""
        return targets(self)

    async def answer(self, asked: GenerationRequest) -> tuple[Piece, GenerationEnd]:
        """As `any_target.answer`."""
        return await answer(self, asked)

    async def speak(self, asked: GenerationRequest) -> AsyncGenerator[Piece | GenerationEnd]:
        """As `any_target.speak`."""
        async with contextlib.aclosing(speak(self, asked)) as pieces:
            async for piece in pieces:
                yield piece

    async def relay(self, asked: EngineRequest) -> AsyncGenerator[Event | GenerationEnd]:
        """As `any_target.relay`."""
        async with contextlib.aclosing(relay(self, asked)) as events:
            async for event in events:
                yield event

    async def probe(self, seconds: float) -> dict[str, str]:
        """As `any_target.probe`."""
        return await probe(self, seconds)


SpeakingCoordinator = ray.remote(max_restarts=0)(SpeakingDecoder)


class Models:
    """Starts the fleet, checks its health, and edits its plug-in.

    Args:
        config: the run file with plug-in and targets. version: of the plug-in; None takes the run file's own, `own`, as
            it has been edited since. output: as for `bound`; what is loaded is told there. coordinators: how many.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: RunConfig, version: str | None, own: str, output: Path | None = None, coordinators: int = 1
    ) -> None:
        self._config = config
        self._managing = asyncio.Lock()
        self._output = output_stream(output)
        for wanted in {own, version or own}:  # they may come from another node
            await asyncio.to_thread(have_version, wanted)
        served = await asyncio.to_thread(lambda: served_version(config, answering_version(config, version, own)))
        started = (config, served, self._tell, SpeakingCoordinator, coordinators)
        self.fleet = await asyncio.to_thread(Fleet.start, *started)
        await asyncio.to_thread(self._warm_up, config, served)
        self._living = open_living(config, self.fleet, served)
        self._editing = asyncio.ensure_future(self._living.run())
        self._heard = time.monotonic()
        self._watching = asyncio.ensure_future(self._watch())

    def _tell(self, update: str | Count) -> None:
        self._output.write(f"{update}\n")  # in one piece: other processes write too
        self._output.flush()

    def _warm_up(self, config: RunConfig, served: Version) -> None:
        """Do what the first request would otherwise wait for: load the alignments and run each model once."""
        self.fleet.prepare([config.fusion.strategy], self._tell)
        question = next((edit.prompt for edit in served.edits()), "Who?")
        for target in config.loaded_targets:
            self.fleet.coordinators.tell_now("answer", GenerationRequest(target, 4, GREEDY, question))

    async def knowledge(self, method: str, *args: Any, **named: Any) -> Any:
        """Call `method`, one of `backend.Knowledge`."""
        return await getattr(self._living, method)(*args, **named)

    async def add_server(self, name: str, config: ModelConfig) -> str:
        """As `backend.Backend.add_server`. It is known until this system ends; a new one begins with its run file."""
        async with self._managing:
            check_engines(self._config.model_copy(update={"targets": {name: config}}))
            about: str = await self.fleet.coordinators.ask_again("try_server", name, config)
            await self.fleet.add_server(name, config)
            return about

    async def remove_server(self, name: str) -> None:
        """As `backend.Backend.remove_server`."""
        async with self._managing:
            await self.fleet.coordinators.ask_again("check_removable", name)
            await self.fleet.remove_server(name)

    async def coordinators(self, lost: ActorHandle | None = None) -> list[ActorHandle]:
        """The coordinator actors, which answer the requests; if `lost` has died, another one in its place."""
        if lost is not None:
            await asyncio.to_thread(self.fleet.coordinators.revive, lost)
        return self.fleet.coordinators.handles

    async def loads(self) -> dict[str, Load]:
        """The load of each model actor, by name."""
        actors = dict(self.fleet.actors)
        loads = await asyncio.gather(*(result(actor.load.remote()) for actor in actors.values()))
        return dict(zip(actors, loads, strict=True))

    async def _watch(self) -> None:
        """Replace a coordinator that dies while nobody asks."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for each in self.fleet.coordinators.handles:
                try:
                    await asyncio.to_thread(self.fleet.coordinators.revive, each)
                except Exception:  # tried again, and the next call of the coordinator tells the same
                    LOG.exception("no coordinator could be started")

    async def check_health(self) -> None:
        """Raises the error of a model that does not come back; a model that is loading or busy counts as healthy, and
        so does one whose server is down, since starting this system again would not help.

        Serve would load every model again, so a coordinator that is being replaced has `SILENT_SECONDS` for it.
        """
        if self._editing.done():
            raise ModelError("edits are not taken up any more; the log says why")
        states: dict[str, str] = {}
        with contextlib.suppress(ProcessLostError, TimeoutError):
            coordinators = self.fleet.coordinators
            async with asyncio.timeout(HEALTH_SECONDS):
                asked = (coordinators.ask("probe", PROBE_SECONDS, at=at) for at in range(len(coordinators.seats)))
                states = (await asyncio.gather(*asked))[0]
            self._heard = time.monotonic()
        if (silent := time.monotonic() - self._heard) > SILENT_SECONDS:
            raise ModelError(f"a coordinator has not answered for {silent:.0f} s")
        own = {name: state for name, state in states.items() if name not in self.fleet.servers}
        broken = [f"{name}: {state}" for name, state in own.items() if state not in ("", BUSY)]
        if broken:
            raise ModelError("; ".join(broken))

    def __del__(self) -> None:
        if hasattr(self, "fleet"):
            self.fleet.stop()


ModelsDeployment = serve.deployment(
    num_replicas=1, max_ongoing_requests=64, ray_actor_options=SMALL, health_check_timeout_s=CHECK_SECONDS
)(Models)
