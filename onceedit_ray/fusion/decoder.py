"""Requests, decoded: screen, gate, draft, re-tokenise, verify, fuse, accept (algorithm.md §4).

    prompt → screen: no edited subject in it: the target alone, the plug-in is not asked
           → gate (one plug-in prefill, beside the target's where each has hardware of its own)
           → below the threshold: the target alone, bit-identical
           → above: the plug-in drafts, the target checks a whole draft in one pass, each position is fused,
             and tokens are kept while the fused choice is the drafted one

Requests for one question share one drafter while they run, so asking every target drafts once. The decoder knows
models by their protocol alone; the same object runs in one process and inside the coordinator actor.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from onceedit_ray.config import FusionConfig
from onceedit_ray.errors import ConfigError, OnceEditError
from onceedit_ray.fusion.drafter import Drafter, DraftReader
from onceedit_ray.fusion.outputs import Generation, Score, Trace
from onceedit_ray.fusion.screen import Screen
from onceedit_ray.fusion.speculative import SpeculativeAnswer, read
from onceedit_ray.fusion.strategies import STRATEGIES, Pair, Strategy
from onceedit_ray.knowledge.prompt_shapes import plugin_view, unwrap
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.protocol import LanguageModel
from onceedit_ray.models.sampling import GREEDY, Sampling

UNEDITED = "unedited"
"""The strategy under which a target's own answers, before any edit, are asked for and recorded."""
NEVER = 2.0
"""A threshold that no gate weight reaches."""
FIRST_STRIDE = 4
"""Tokens of the second piece of a streamed answer."""
REMEMBERED_WEIGHTS = 4096


@dataclass
class Member:
    """A target as the decoder sees it; `pair` is called once, when a strategy first needs the alignment.

    beside: whether it has hardware of its own, so that its prefill runs beside the plug-in's and not instead of it.
    """

    name: str
    model: LanguageModel
    codec: Codec
    pair: Callable[[], Pair]
    beside: bool = True
    _strategies: dict[str, Strategy] = field(default_factory=dict)
    _building: threading.Lock = field(default_factory=threading.Lock)

    def strategy(self, name: str) -> Strategy:
        """The named strategy over this target's alignment, built once; safe to call from several threads."""
        with self._building:
            if name not in self._strategies:
                self._strategies[name] = STRATEGIES.get(name)(self.pair())
            return self._strategies[name]

    def is_built(self, name: str) -> bool:
        """Whether `strategy(name)` returns at once."""
        return name in self._strategies


@dataclass
class Plugin:
    """An edited plug-in as the decoder sees it.

    view: its prompt view. screen: which questions are worth its while; None asks it about everything. version: its id.
    """

    model: LanguageModel
    codec: Codec
    view: str
    screen: Screen | None = None
    version: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    drafters: dict[tuple[str, bool], _Shared] = field(default_factory=dict)
    requests: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.contextmanager
    def held(self) -> Iterator[Plugin]:
        """Counts a request that ends with this plug-in, whatever replaces it meanwhile."""
        self.requests += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self.requests -= 1
            if not self.requests:
                self._idle.set()

    async def idle(self) -> None:
        """Returns once no request holds it: at once, or when the last one has ended."""
        if self.requests:
            await self._idle.wait()


@dataclass
class _Shared:
    """A drafter in use: how many requests hold it, and its opening, which gives the gate weight."""

    drafter: Drafter
    opening: asyncio.Task[float]
    holders: int = 0


class FusedDecoder:
    """Decodes requests for any of the targets with one plug-in.

    Args:
        plugin: the edited plug-in; may be replaced at any time, a request ends with the one it began with.
        config: strategy, threshold, draft length.
    """

    def __init__(self, plugin: Plugin, config: FusionConfig) -> None:
        self.plugin = plugin
        self.members: dict[str, Member] = {}
        self._config = config

    def member(self, name: str) -> Member:
        """A target by name; raises `ConfigError` naming those there are."""
        try:
            return self.members[name]
        except KeyError:
            raise ConfigError(f"unknown target '{name}': known are {', '.join(sorted(self.members))}") from None

    async def gate(self, prompt: str) -> float:
        """w of a prompt in any shape, the screen aside; one question in different shapes shares one reading."""
        question = unwrap(prompt)
        with self.plugin.held() as plugin:
            if question not in plugin.weights:
                drafter = self._drafter(plugin, question, drafts=False)
                async with contextlib.aclosing(drafter):
                    weight = await drafter.open(threshold=NEVER)
                if len(plugin.weights) >= REMEMBERED_WEIGHTS:
                    plugin.weights.clear()
                plugin.weights[question] = weight
            return plugin.weights[question]

    async def mentioned(self, prompt: str) -> bool:
        """Whether the screen lets a prompt through to the gate."""
        return _mentions(self.plugin, prompt)

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Self]:
        """This decoder with the plug-in of now, for work that asks more than once and must not see two versions."""
        with self.plugin.held():
            yield copy.copy(self)

    async def render(self, target: str, question: str, shape: str) -> str:
        """A question in a prompt shape; `chat` by the target's own chat template where it has one."""
        return self.member(target).codec.render(question, shape)

    async def gold(self, target: str, prompt: str, answer: str) -> tuple[int, ...]:
        """The target's tokens of `answer` after `prompt`, its leading space included unless the prompt ends in one."""
        return self.member(target).codec.encode_bytes((b"" if answer_lead(prompt) else b" ") + answer.strip().encode())

    async def text(self, target: str, ids: Sequence[int]) -> str:
        """The text of a target's tokens."""
        return self.member(target).codec.text_of(ids)

    async def restriction(self, target: str, strategy: str) -> str:
        """How a strategy is restricted on this target; "" where it is not. Builds or loads what the strategy needs."""
        return (await self._strategy(self.member(target), strategy)).restriction

    async def generate(
        self,
        target: str,
        prompt: str,
        strategy: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> Generation:
        """Answer a prompt.

        Args:
            target: a member's name. prompt: what the target is given, in any shape.
            strategy: a strategy's name, or `UNEDITED`; None takes the configured one.
            max_new_tokens: None takes the configured number.
            sampling: how tokens are chosen; the most likely ones if not given.
        """
        pieces = self.stream(target, prompt, strategy, max_new_tokens, sampling, stride=0)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Generation):
                    return piece
        raise AssertionError("an answer ends with a Generation")

    async def generate_all(
        self,
        prompts: Mapping[str, str],
        strategy: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> dict[str, Generation]:
        """Put a question to several targets at once: a prompt for each. One draft serves all while they agree."""
        with self.pinned() as decoder:
            options = (strategy, max_new_tokens, sampling)
            asked = (decoder.generate(name, prompt, *options) for name, prompt in prompts.items())
            return dict(zip(prompts, await asyncio.gather(*asked), strict=True))

    async def stream(
        self,
        target: str,
        prompt: str,
        strategy: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        stride: int = FIRST_STRIDE,
        trace: Trace | None = None,
    ) -> AsyncGenerator[list[int] | Generation]:
        """As `generate`, piece by piece: the target's new tokens as they are decided, and the `Generation` at last.

        Whoever stops reading early closes the generator (`contextlib.aclosing`), which frees the sessions.

        Args:
            stride: tokens of the second piece, after a first of one; 0 does not hurry the first token.
            trace: filled while the answer is written.
        """
        member = self.member(target)
        prompt_ids = member.codec.encode_prompt(prompt)
        budget = max_new_tokens or self._config.max_new_tokens
        trace = trace or Trace()
        answering = SpeculativeAnswer(member.model, member.codec, prompt_ids, budget, sampling, stride, trace)
        name = strategy or self._config.strategy
        async with contextlib.AsyncExitStack() as held:
            plugin = held.enter_context(self.plugin.held())
            await held.enter_async_context(contextlib.aclosing(answering))
            if name == UNEDITED:
                trace.so_far = lambda: _generation(member, answering, None, True, 0, "")
                async for ids in answering.alone():
                    yield ids
                yield trace.so_far()
                return
            chosen = await self._strategy(member, name)
            if chosen.gated and not _mentions(plugin, prompt):
                trace.so_far = lambda: _generation(member, answering, 0.0, True, 0, plugin.version)
                async for ids in answering.alone():
                    yield ids
                yield trace.so_far()
                return
            prefill = asyncio.ensure_future(answering.prefill()) if member.beside else None
            try:
                async with self._reading(plugin, prompt, chosen) as reader:
                    first = await prefill if prefill else None
                    alone = chosen.gated and reader.weight < self._config.threshold
                    used = reader.weight if chosen.fixed_weight is None else chosen.fixed_weight
                    draft_tokens = self._config.draft_tokens if chosen.drafts else 0
                    pieces = (
                        answering.alone(first) if alone else answering.fused(reader, chosen, used, draft_tokens, first)
                    )
                    trace.so_far = lambda: _generation(
                        member, answering, reader.weight, alone, reader.passes, plugin.version
                    )
                    async for ids in pieces:
                        yield ids
                    yield trace.so_far()
            finally:
                if prefill is not None:
                    with contextlib.suppress(OnceEditError):
                        await prefill

    async def score(self, target: str, prompt: str, gold: Sequence[int], strategy: str | None = None) -> Score:
        """Teacher-forced predictions for the `gold` tokens after `prompt` (metrics.md)."""
        with self.plugin.held() as plugin:
            return await self._score(plugin, self.member(target), prompt, gold, strategy)

    async def _score(
        self, plugin: Plugin, member: Member, prompt: str, gold: Sequence[int], strategy: str | None
    ) -> Score:
        ids = member.codec.encode_prompt(prompt) + list(gold[:-1])
        name = strategy or self._config.strategy
        step = await member.model.open(ids, rows=len(gold))
        await member.model.close(step.session)
        own = tuple(int(token) for token in step.top.ids_NK[:, 0])
        if name == UNEDITED:
            return Score(own, None, True, 0)
        chosen = await self._strategy(member, name)
        if chosen.gated and not _mentions(plugin, prompt):
            return Score(own, 0.0, True, 0)
        async with self._reading(plugin, prompt, chosen) as reader:
            if chosen.gated and reader.weight < self._config.threshold:
                return Score(own, reader.weight, True, reader.passes)
            used = reader.weight if chosen.fixed_weight is None else chosen.fixed_weight
            predicted = []
            for position in range(len(gold)):
                reading = await read(reader, chosen, member.codec, member.codec.bytes_of(gold[:position]))
                predicted.append(chosen.fuse(reading, *step.top.row(position), used).likeliest)
            return Score(tuple(predicted), reader.weight, False, reader.passes)

    async def _strategy(self, member: Member, name: str) -> Strategy:
        """The strategy, built in a thread if this is its first use: an alignment takes a while."""
        return member.strategy(name) if member.is_built(name) else await asyncio.to_thread(member.strategy, name)

    @contextlib.asynccontextmanager
    async def _reading(self, plugin: Plugin, prompt: str, strategy: Strategy) -> AsyncIterator[DraftReader]:
        """A reader of the question's drafts, shared with whoever asks the same at the same time."""
        key = (unwrap(prompt), strategy.drafts)
        shared = plugin.drafters.get(key)
        if shared is None:
            drafter = self._drafter(plugin, *key)
            threshold = self._config.threshold if strategy.gated else 0.0
            shared = plugin.drafters[key] = _Shared(drafter, asyncio.ensure_future(drafter.open(threshold)))
        shared.holders += 1
        try:
            await asyncio.shield(shared.opening)
            reader = shared.drafter.reader(answer_lead(prompt))
            try:
                yield reader
            finally:
                await reader.leave()
        finally:
            shared.holders -= 1
            if shared.holders == 0:
                del plugin.drafters[key]
                with contextlib.suppress(OnceEditError):
                    await shared.opening
                await shared.drafter.aclose()

    def _drafter(self, plugin: Plugin, question: str, drafts: bool) -> Drafter:
        prompt_ids = plugin.codec.encode_prompt(plugin_view(question, plugin.view))
        return Drafter(plugin.model, plugin.codec, prompt_ids, self._config.draft_tokens if drafts else 0)


def _mentions(plugin: Plugin, prompt: str) -> bool:
    return plugin.screen is None or plugin.screen.mentions(unwrap(prompt))


def answer_lead(prompt: str) -> bytes:
    """What an answer starts with for the plug-in alone: the space that this prompt already ends with."""
    return b" " if prompt[-1:].isspace() else b""


def _generation(
    member: Member, answering: SpeculativeAnswer, weight: float | None, alone: bool, plugin_passes: int, version: str
) -> Generation:
    ids = tuple(answering.ids)
    return Generation(
        target=member.name,
        text=member.codec.text_of(ids),
        token_ids=ids,
        weight=weight,
        alone=alone,
        target_passes=answering.passes,
        plugin_passes=plugin_passes,
        ended=answering.ended,
        version=version,
        prompt_tokens=len(answering.prompt_ids),
        drafted=answering.drafted,
        accepted=answering.accepted,
    )
