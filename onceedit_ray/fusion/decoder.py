"""Decodes requests: screen, gate, draft, re-tokenise, verify, fuse, accept (algorithm.md §4).

    prompt → screen: no edited subject in it: the target alone, the plug-in is not asked
           → gate (one plug-in prefill, beside the target's where each has hardware of its own)
           → below the threshold: the target alone, bit-identical
           → above: the plug-in drafts, the target checks a whole draft in one pass, each position is fused,
             and tokens are kept while the fused choice is the drafted one

Requests for one question share one drafter while they run, so asking every target drafts once. The decoder knows models
only by their protocol; the same class runs in one process and inside the coordinator actor.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Self

from onceedit_ray.config import FusionConfig
from onceedit_ray.errors import ConfigError, OnceEditError, UnknownTargetError
from onceedit_ray.fusion.candidates import names_a_fact, with_context
from onceedit_ray.fusion.contradictions import Contradictions
from onceedit_ray.fusion.drafter import Drafter, DraftReader
from onceedit_ray.fusion.engine_answer import Server
from onceedit_ray.fusion.in_prompt import InPromptAnswer, note_of
from onceedit_ray.fusion.known_answer import KnownAnswer
from onceedit_ray.fusion.members import Member, Plugin, SharedDrafter, View
from onceedit_ray.fusion.opening import opening_of
from onceedit_ray.fusion.outputs import Generation, Score, Trace
from onceedit_ray.fusion.read_along import ReadAlong
from onceedit_ray.fusion.route import Route, generation_of
from onceedit_ray.fusion.selective_answer import SelectiveAnswer
from onceedit_ray.fusion.speculative import SpeculativeAnswer, read
from onceedit_ray.fusion.strategies import InPrompt, Strategy
from onceedit_ray.fusion.strategies.selective import Selective
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.prompt import Prompt, first_stop, question_of
from onceedit_ray.models.protocol import Step
from onceedit_ray.models.sampling import GREEDY, Sampling

UNEDITED = "unedited"
"""The strategy name for a target's own answers, without the plug-in."""
NEVER = 2.0
"""A threshold above every gate weight."""
FIRST_STRIDE = 4
"""Tokens of the second piece of a streamed answer."""
REMEMBERED_WEIGHTS = 4096


class FusedDecoder:
    """Decodes requests for any of the targets with one plug-in.

    Args:
        plugin: the edited plug-in; may be replaced at any time; a request uses the same plug-in from beginning to end.
        config: strategy, threshold, draft length.

    members: the targets that are loaded. servers: those that servers have (`fusion.engine_answer`).
    """

    def __init__(self, plugin: Plugin, config: FusionConfig) -> None:
        self.plugin = plugin
        self.members: dict[str, Member] = {}
        self.servers: dict[str, Server] = {}
        self._config = config

    @property
    def max_new_tokens(self) -> int:
        """The most tokens of an answer, if a request names no number."""
        return self._config.max_new_tokens

    def member(self, name: str) -> Member:
        """A target by name; for an unknown name, raises `UnknownTargetError` that lists the known ones."""
        try:
            return self.members[name]
        except KeyError:
            if name in self.servers:
                raise ConfigError(f"target '{name}' is a server's model, whose tokens are not known here") from None
            known = ", ".join(sorted(self.members))
            raise UnknownTargetError(f"unknown target '{name}': known are {known}") from None

    async def gate(self, prompt: str | Prompt) -> float:
        """The gate weight w of a prompt in any shape, without the screen; all shapes of a question share one pass."""
        question = question_of(prompt)
        with self.plugin.held() as plugin:
            if question not in plugin.weights:
                views = plugin.views(question, screened=False)
                if not views:
                    return 0.0
                drafter = self._drafter(plugin, views, drafts=False)
                async with contextlib.aclosing(drafter):
                    weight = await drafter.open(threshold=NEVER)
                if len(plugin.weights) >= REMEMBERED_WEIGHTS:
                    plugin.weights.clear()
                plugin.weights[question] = weight
            return plugin.weights[question]

    async def mentioned(self, prompt: str | Prompt) -> bool:
        """Whether the screen passes a prompt on to the gate."""
        turns, system = (prompt.turns, prompt.system) if isinstance(prompt, Prompt) else ((), "")
        if self.plugin.facts is not None:
            return names_a_fact(self.plugin.facts, question_of(prompt), turns, system)
        return bool(self.plugin.views(question_of(prompt), turns))

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Self]:
        """This decoder with the present plug-in, for work of several requests that must all use the same version."""
        with self.plugin.held():
            yield copy.copy(self)

    async def render(self, target: str, question: str, shape: str) -> str:
        """A question in a prompt shape; `chat` by the target's own chat template where it has one."""
        return self.member(target).codec.render(question, shape)

    async def gold(self, target: str, prompt: str, answer: str) -> tuple[int, ...]:
        """The target's tokens of `answer` after `prompt`, its leading space included unless the prompt ends in one."""
        return self.member(target).codec.encode_answer(prompt, answer)

    async def text(self, target: str, ids: Sequence[int]) -> str:
        """The text of a target's tokens."""
        return self.member(target).codec.text_of(ids)

    async def restriction(self, target: str, strategy: str) -> str:
        """How a strategy is restricted on this target; "" if it is not. Builds or loads what the strategy needs."""
        return (await self._strategy(self.member(target), strategy)).restriction

    async def generate(
        self,
        target: str,
        prompt: str | Prompt,
        strategy: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> Generation:
        """Answer a prompt.

        Args:
            target: a member's name. prompt: a text in any shape (as `Codec.prompt`), or a prompt of the target's codec.
            strategy: a strategy's name, or `UNEDITED`; None takes the configured one.
            max_new_tokens: None takes the configured number.
            sampling: how tokens are chosen; the most likely ones if not given.

        The answer to a chat ends before the codec's `chat_stops`: a model without a chat template would go on with the
        next question.
        """
        codec = self.member(target).codec
        asked = prompt if isinstance(prompt, Prompt) else codec.prompt(prompt)
        stops = codec.chat_stops if asked.is_chat else ()
        written: list[int] = []

        def stop() -> bool:
            return bool(stops) and first_stop(codec.text_of(written), stops) is not None

        stride = FIRST_STRIDE if stops else 0
        pieces = self.stream(target, asked, strategy, max_new_tokens, sampling, stride, stop=stop)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if not isinstance(piece, Generation):
                    written += piece
                elif stops:
                    return _until(piece, first_stop(piece.text, stops), codec)
                else:
                    return piece
        raise AssertionError("an answer ends with a Generation")

    async def generate_all(
        self,
        prompts: Mapping[str, str | Prompt],
        strategy: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> dict[str, Generation]:
        """Ask several targets one question, each with its prompt. They share one draft while their answers agree."""
        with self.pinned() as decoder:
            options = (strategy, max_new_tokens, sampling)
            asked = (decoder.generate(name, prompt, *options) for name, prompt in prompts.items())
            return dict(zip(prompts, await asyncio.gather(*asked), strict=True))

    async def stream(
        self,
        target: str,
        prompt: str | Prompt,
        strategy: str | None = None,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        stride: int = FIRST_STRIDE,
        trace: Trace | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> AsyncGenerator[list[int] | Generation]:
        """As `generate`, but yields the target's new tokens in pieces as they are decided, and the `Generation` at the
        end.

        A caller that stops early must close the generator (`contextlib.aclosing`), which frees the sessions.

        Args:
            stride: tokens of the second piece, after a first piece of one token; 0 disables the early first token.
            trace: filled while the answer is written.
            stop: called after each piece; if it returns true, the answer ends there.
        """
        member = self.member(target)
        asked = prompt if isinstance(prompt, Prompt) else member.codec.prompt(prompt)
        budget = max_new_tokens or self._config.max_new_tokens
        model = member.model
        if asked.known:
            model = KnownAnswer(model, len(asked.ids), asked.known, member.codec.end_ids)
        answering = SpeculativeAnswer(model, member.codec, list(asked.ids), budget, sampling, stride, trace or Trace())
        async with contextlib.AsyncExitStack() as held:
            plugin = held.enter_context(self.plugin.held())
            await held.enter_async_context(contextlib.aclosing(answering))
            meanwhile = answering.prefill if member.beside else None
            route = await held.enter_async_context(self._route(plugin, member, asked, strategy, meanwhile, answering))
            async for ids in self._pieces(answering, route):
                yield ids
                if stop():
                    break
            yield generation_of(member, answering, route)

    def _pieces(self, answering: SpeculativeAnswer, route: Route) -> AsyncIterator[list[int]]:
        if route.in_prompt is not None:
            return route.in_prompt.pieces()
        if route.selective is not None:
            return route.selective.pieces()
        if route.strategy is None or route.reader is None:
            return answering.alone(route.prefill)
        draft_tokens = self._config.draft_tokens if route.strategy.drafts else 0
        return answering.fused(route.reader, route.strategy, route.fused_weight, draft_tokens, route.prefill)

    async def score(self, target: str, prompt: str | Prompt, gold: Sequence[int], strategy: str | None = None) -> Score:
        """Teacher-forced predictions for the `gold` tokens after `prompt` (metrics.md)."""
        member = self.member(target)
        asked = prompt if isinstance(prompt, Prompt) else member.codec.prompt(prompt)
        with self.plugin.held() as plugin:
            async with self._route(plugin, member, asked, strategy) as route:
                if route.in_prompt is not None:
                    return Score(await route.in_prompt.predicted(gold), route.weight, False, 0)
                step = await member.model.open([*asked.ids, *gold[:-1]], rows=len(gold))
                await member.model.close(step.session)
                if route.strategy is None or route.reader is None:
                    own = tuple(int(token) for token in step.top.ids_NK[:, 0])
                    return Score(own, route.weight, True, route.plugin_passes)
                predicted = []
                for position in range(len(gold)):
                    answer = member.codec.bytes_of(gold[:position])
                    reading = await read(route.reader, route.strategy, member.codec, answer)
                    if reading is None:
                        predicted.append(int(step.top.ids_NK[position, 0]))
                        continue
                    fused = route.strategy.fuse(reading, *step.top.row(position), route.fused_weight)
                    predicted.append(fused.likeliest)
                return Score(tuple(predicted), route.weight, False, route.plugin_passes)

    @contextlib.asynccontextmanager
    async def _route(
        self,
        plugin: Plugin,
        member: Member,
        prompt: Prompt,
        strategy: str | None,
        meanwhile: Callable[[], Awaitable[Step]] | None = None,
        answering: SpeculativeAnswer | None = None,
    ) -> AsyncIterator[Route]:
        """Apply screen, gate and threshold: yields how the request is answered, with the plug-in's reader meanwhile.

        meanwhile: the target's prefill, started in parallel with the gate's if the gate is evaluated. answering: the
            answer that is written, if any.
        """
        name = strategy or self._config.strategy
        if name == UNEDITED:
            yield Route(None)
            return
        chosen = await self._strategy(member, name)
        if isinstance(chosen, InPrompt):
            yield self._in_prompt(plugin, member, prompt, chosen, answering)
            return
        if chosen.selective and plugin.facts is not None and answering is not None:
            async with self._selecting(plugin, prompt, chosen, answering) as route:
                yield route
            return
        views = plugin.views(prompt.question, prompt.turns, chosen.gated)
        if not views:
            yield Route(0.0, version=plugin.version)
            return
        prefill = asyncio.ensure_future(meanwhile()) if meanwhile else None
        try:
            async with self._reading(plugin, prompt, views, chosen) as reader:
                first = await prefill if prefill else None
                alone = chosen.gated and reader.weight < self._config.threshold
                yield Route(reader.weight, None if alone else chosen, reader, first, plugin.version)
        finally:
            if prefill is not None:
                with contextlib.suppress(OnceEditError):
                    await prefill

    def _in_prompt(
        self, plugin: Plugin, member: Member, prompt: Prompt, strategy: InPrompt, answering: SpeculativeAnswer | None
    ) -> Route:
        """The target reads the edits that the strategy chooses; it answers alone if there are none."""
        edits = strategy.chosen(plugin.live_edits, with_context(prompt.question, prompt.turns))
        if not edits:
            return Route(0.0, version=plugin.version)
        ids = list(member.codec.with_note(prompt, note_of(list(edits.values()))))
        answer = answering or SpeculativeAnswer(member.model, member.codec, ids, 1, GREEDY)
        answer.prompt_ids = ids
        in_prompt = InPromptAnswer(answer, list(prompt.ids), strategy, tuple(edits))
        return Route(1.0, strategy, version=plugin.version, in_prompt=in_prompt)

    @contextlib.asynccontextmanager
    async def reading_along(self, plugin: Plugin, prompt: Prompt) -> AsyncIterator[Contradictions]:
        """The plug-in reads an answer to `prompt` along; the gate is evaluated at once if the request names an edit."""
        assert plugin.facts is not None, "only a plug-in that reads facts reads along"
        along = ReadAlong.of(plugin.model, plugin.codec, plugin.facts, prompt)
        async with contextlib.AsyncExitStack() as held:
            await held.enter_async_context(contextlib.aclosing(along))
            reader = None
            if views := plugin.views(prompt.question, prompt.turns):
                reader = await held.enter_async_context(self._reading(plugin, prompt, views, Selective))
            opening, along.passes = await opening_of(plugin, prompt) if prompt.is_chat else (None, 0)
            yield Contradictions(along, self._config.threshold, reader, plugin.version, opening)

    @contextlib.asynccontextmanager
    async def _selecting(
        self, plugin: Plugin, prompt: Prompt, strategy: Strategy, answering: SpeculativeAnswer
    ) -> AsyncIterator[Route]:
        """The target writes and the plug-in reads along."""
        async with self.reading_along(plugin, prompt) as found:
            goes_on = prompt.is_chat or bool(prompt.continued)
            selective = SelectiveAnswer(
                answering, found, strategy, self._config.draft_tokens, in_chat=prompt.is_chat, goes_on=goes_on
            )
            yield Route(found.request_weight, strategy, found.reader, None, plugin.version, selective)

    async def _strategy(self, member: Member, name: str) -> Strategy:
        """The strategy, built in a thread if this is its first use: an alignment takes a while."""
        return member.strategy(name) if member.is_built(name) else await asyncio.to_thread(member.strategy, name)

    @contextlib.asynccontextmanager
    async def _reading(
        self, plugin: Plugin, prompt: Prompt, views: Sequence[View], strategy: Strategy | type[Strategy]
    ) -> AsyncIterator[DraftReader]:
        """A reader of the question's drafts, which concurrent requests of the same question share."""
        key = (prompt.question, prompt.turns, strategy.drafts)
        shared = plugin.drafters.get(key)
        if shared is None or shared.drafter.departed:
            drafter = self._drafter(plugin, views, strategy.drafts)
            threshold = self._config.threshold if strategy.gated else 0.0
            shared = plugin.drafters[key] = SharedDrafter(drafter, asyncio.ensure_future(drafter.open(threshold)))
        shared.holders += 1
        try:
            shared.drafter.joining += 1
            try:
                await asyncio.shield(shared.opening)
            finally:
                shared.drafter.joining -= 1
            reader = shared.drafter.reader(prompt.lead)
            try:
                yield reader
            finally:
                await reader.leave()
        finally:
            shared.holders -= 1
            if shared.holders == 0:
                if plugin.drafters.get(key) is shared:
                    del plugin.drafters[key]
                with contextlib.suppress(OnceEditError):
                    await shared.opening
                await shared.drafter.aclose()

    def _drafter(self, plugin: Plugin, views: Sequence[View], drafts: bool) -> Drafter:
        """A drafter over the plug-in's views of a question."""
        prompts = [list(plugin.codec.text_prompt(view.text).ids) for view in views]
        edits = [view.edits for view in views]
        return Drafter(plugin.model, plugin.codec, prompts, self._config.draft_tokens if drafts else 0, edits)


def _until(answer: Generation, place: int | None, codec: Codec) -> Generation:
    """The answer before a stop string at `place` of its text, closed by an end token."""
    if place is None:
        return replace(answer, text=answer.text.lstrip())
    kept = answer.token_ids[: codec.tokens_within(answer.token_ids, len(answer.text[:place].encode()))]
    return replace(answer, text=answer.text[:place].lstrip(), token_ids=(*kept, *sorted(codec.end_ids)[:1]), ended=True)
