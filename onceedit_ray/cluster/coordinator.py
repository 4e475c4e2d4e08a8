"""The coordinator actor: the same `FusedDecoder`, with model actors instead of local models.

For each request it asks plug-in and target in parallel, fuses and accepts. It exchanges only token ids and top-k rows
with them. It holds the alignments and the targets' tokenizers, and no weights.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import ray
from ray.actor import ActorHandle

from onceedit_ray.cluster.on_this_node import (
    PluginWeights,
    SentVersion,
    model_here,
    names_the_node,
    version_here,
    weights_here,
)
from onceedit_ray.cluster.remote_model import RemoteModel
from onceedit_ray.config import AlignmentConfig, FusionConfig, LivingConfig, ModelConfig
from onceedit_ray.errors import ModelError, ProcessLostError
from onceedit_ray.evaluation.acceptance import Judgement
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.members import Member, Plugin
from onceedit_ray.fusion.strategies import Pair
from onceedit_ray.fusion.system import open_plugin, open_tokens, pair_up
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.revision import Change
from onceedit_ray.living.judge_facts import judge_facts
from onceedit_ray.models.assembly import open_codec, use_threads
from onceedit_ray.models.engines.openai_tokens import OpenAITokensEngine
from onceedit_ray.models.engines.start import open_engine
from onceedit_ray.models.sources import ModelFolder
from onceedit_ray.serving.any_target import remove_server


class HostedDecoder(FusedDecoder):
    """A decoder whose models are actors.

    Args:
        plugin: the actor of the edited plug-in. base: the base plug-in, whose embeddings the alignments use. edited:
            the version, its edits loaded, or its folder. view: its prompt view. All are found on this node, or fetched.
        owner: the name of its sessions in the models, which several coordinators use.
    """

    def __init__(
        self,
        plugin: ActorHandle,
        base: ModelFolder,
        edited: SentVersion | Path,
        view: str,
        fusion: FusionConfig,
        alignment: AlignmentConfig,
        owner: str = "",
    ) -> None:
        use_threads(1)  # fusing is little work: a second thread would cost more than it saves
        self._view = view
        self._owner = owner
        self._standby: Plugin | None = None
        self._leaving: dict[int, Plugin] = {}
        self._numbers = itertools.count(time.time_ns())  # no number of a dead coordinator occurs again
        with names_the_node():
            self._base = base = model_here(base)
        super().__init__(self._opened(plugin, edited, fusion), fusion)
        self._base_codec = open_codec(base.path)
        self._alignment = alignment

    def _opened(self, actor: ActorHandle, sent: SentVersion | Path, fusion: FusionConfig) -> Plugin:
        with names_the_node():
            edited = version_here(sent)
            codec = open_codec(weights_here(PluginWeights(self._base, sent)))
        model = RemoteModel(actor, "the plug-in", self._owner)
        return open_plugin(model, codec, self._view, edited, fusion)

    async def stand_by(self, actor: ActorHandle, edited: SentVersion | Path) -> None:
        """Prepare another version of the plug-in; `take_over` makes it the active one.

        One forward pass is run, so that no request has to wait for the first one. The alignments depend on the
        tokenizer, which no edit changes, so they are kept.
        """
        plugin = await asyncio.to_thread(self._opened, actor, edited, self._config)
        step = await plugin.model.open(plugin.codec.encode_prompt("a")[:1])
        await plugin.model.close(step.session)
        self._standby = plugin

    async def stand_by_facts(self, edited: SentVersion) -> None:
        """As `stand_by` for a version that the same plug-in reads: its facts alone are made ready."""
        now = self.plugin

        def opened() -> Plugin:
            with names_the_node():
                return open_plugin(now.model, now.codec, self._view, version_here(edited), self._config)

        self._standby = await asyncio.to_thread(opened)

    async def judge(self, new: Sequence[Edit], bounds: LivingConfig) -> Judgement:
        """As `judge_facts.judge_facts`, by the plug-in that answers."""
        with self.plugin.held() as now:
            return await judge_facts(now, new, bounds, self._config.threshold)

    async def take_facts(self, change: Change, version: str) -> int:
        """Let new requests use the facts after a change, as `version`; returns as `take_over`."""
        now = self.plugin
        if now.facts is None:
            raise ModelError("the plug-in that answers was trained on its edits; it reads no facts")
        if now.version == version:  # this coordinator replaces one that died while it took them up
            return next(self._numbers)
        facts = await asyncio.to_thread(now.facts.after, change)
        self._standby = Plugin(now.model, now.codec, self._view, version=version, facts=facts)
        return await self.take_over(change)

    async def live_version(self) -> str:
        """The id of the version that new requests use."""
        return self.plugin.version

    async def take_over(self, change: Change | None = None) -> int:
        """Let new requests use the prepared version; returns the number of the previous one, for `left`.

        change: what it changes, if that is known.
        """
        if self._standby is None:  # perhaps this coordinator replaces one that had it
            raise ProcessLostError("no other version of the plug-in is loaded; load one first")
        number = next(self._numbers)
        self._leaving[number], self.plugin, self._standby = self.plugin, self._standby, None
        return number

    async def left(self, number: int) -> None:
        """Wait until all requests have ended that began on the version with this number.

        A number of a coordinator that has died is unknown: its requests ended with it.
        """
        plugin = self._leaving.get(number)
        if plugin is None:
            return
        await plugin.idle()
        del self._leaving[number]
        if plugin.facts is not None:
            await asyncio.to_thread(plugin.facts.leave)

    async def add_target(self, name: str, actor: ActorHandle, folder: ModelFolder, beside: bool) -> str:
        """Add a target: it answers with every edit made so far, and nothing is edited again.

        beside: whether it runs on hardware of its own. Returns its codec's `chat_note`.
        """
        with names_the_node():
            folder = await asyncio.to_thread(model_here, folder)
            codec = open_codec(folder.path)

        def pair() -> Pair:
            use_threads()  # only in this worker thread; the event loop keeps its single thread
            return pair_up(self._base, self._base_codec, folder, codec, self._alignment, print)

        self.members[name] = Member(name, RemoteModel(actor, name, self._owner), codec, pair, beside)
        return codec.chat_note

    async def add_server(self, name: str, config: ModelConfig) -> None:
        """Add a target that a server has, or replace it; raises `ConfigError` if this process lacks its key."""
        if name in self.servers and self.servers[name].config == config:
            return  # added before: a call is repeated if a coordinator dies
        added, member = open_engine(name, config), None
        if isinstance(added, OpenAITokensEngine):
            opening = (added, self._base, self._base_codec, self._config, self._alignment)
            member = await asyncio.to_thread(open_tokens, *opening)
        await remove_server(self, name)
        self.servers[name] = added
        if member is not None:
            self.members[name] = member

    async def remove_server(self, name: str) -> None:
        """As `any_target.remove_server`."""
        await remove_server(self, name)

    async def resident_bytes(self) -> int:
        """Memory of this actor: the alignments, the tokenizers, Python and torch."""
        return psutil.Process().memory_info().rss


Coordinator = ray.remote(max_restarts=0)(HostedDecoder)
