"""One request, decoded: gate, draft, re-tokenise, verify, fuse, accept (algorithm.md §4).

    prompt → gate (one plug-in prefill, beside the target's)
           → below the threshold: the target alone, bit-identical
           → above: the plug-in drafts, the target checks a whole draft in one pass, each position is fused,
             and tokens are kept while the fused choice is the drafted one

Greedy output is by construction that of token-by-token fusion. The decoder knows models by their protocol alone; the
same object runs in one process and inside the coordinator actor.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from onceedit_ray.config import FusionConfig
from onceedit_ray.errors import ConfigError, ContextLengthError, OnceEditError
from onceedit_ray.fusion.drafter import Drafter
from onceedit_ray.fusion.reading import Reading
from onceedit_ray.fusion.strategies import STRATEGIES, Pair, Strategy
from onceedit_ray.knowledge.views import plugin_view, unwrap
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.protocol import LanguageModel, Row, Step

UNEDITED = "unedited"
"""The strategy under which a target's own answers, before any edit, are asked for and recorded."""
NEVER = 2.0
"""A threshold that no gate weight reaches."""


@dataclass
class Member:
    """A target as the decoder sees it; `pair` is called once, when a strategy first needs the alignment."""

    name: str
    model: LanguageModel
    codec: Codec
    pair: Callable[[], Pair]
    _strategies: dict[str, Strategy] = field(default_factory=dict)

    def strategy(self, name: str) -> Strategy:
        """The named strategy over this target's alignment, built once."""
        if name not in self._strategies:
            self._strategies[name] = STRATEGIES.get(name)(self.pair())
        return self._strategies[name]


@dataclass(frozen=True)
class Generation:
    """An answer.

    token_ids: the target's tokens, its end-of-text included where it came. weight: the gate's w; None if unedited.
    alone: the target spoke alone. target_passes, plugin_passes: forward passes of each model.
    """

    target: str
    text: str
    token_ids: tuple[int, ...]
    weight: float | None
    alone: bool
    target_passes: int
    plugin_passes: int
    ended: bool


@dataclass(frozen=True)
class Score:
    """Teacher-forced predictions: the token chosen at each gold position, given the gold tokens before it."""

    predicted: tuple[int, ...]
    weight: float | None
    alone: bool
    plugin_passes: int


class FusedDecoder:
    """Decodes requests for any of the targets with one plug-in.

    Args:
        plugin: the edited plug-in; `plugin_codec` its tokenizer; `view` its prompt view.
        config: strategy, threshold, draft length.
    """

    def __init__(self, plugin: LanguageModel, plugin_codec: Codec, view: str, config: FusionConfig) -> None:
        self._plugin = plugin
        self._plugin_codec = plugin_codec
        self._view = view
        self._config = config
        self._weights: dict[str, float] = {}
        self._building = asyncio.Lock()
        self.members: dict[str, Member] = {}

    def member(self, name: str) -> Member:
        """A target by name; raises `ConfigError` naming those there are."""
        try:
            return self.members[name]
        except KeyError:
            raise ConfigError(f"unknown target '{name}': known are {', '.join(sorted(self.members))}") from None

    async def gate(self, prompt: str) -> float:
        """w of a prompt in any shape; prompts that are one question in different shapes share one reading."""
        question = unwrap(prompt)
        if question not in self._weights:
            async with contextlib.aclosing(self._drafter(prompt, drafts=False)) as drafter:
                weight = await drafter.open(threshold=NEVER)
            if len(self._weights) >= 4096:
                self._weights.clear()
            self._weights[question] = weight
        return self._weights[question]

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
        self, target: str, prompt: str, strategy: str | None = None, max_new_tokens: int | None = None
    ) -> Generation:
        """Answer greedily.

        Args:
            target: a member's name. prompt: what the target is given, in any shape.
            strategy: a strategy's name, or `UNEDITED`; None takes the configured one.
            max_new_tokens: None takes the configured number.
        """
        member = self.member(target)
        budget = max_new_tokens or self._config.max_new_tokens
        prompt_ids = member.codec.encode_prompt(prompt)
        name = strategy or self._config.strategy
        if name == UNEDITED:
            return await self._alone(member, prompt_ids, budget, None)
        chosen = await self._strategy(member, name)
        drafter = self._drafter(prompt, chosen.drafts)
        async with _opening(member.model, prompt_ids, rows=1) as opening, contextlib.aclosing(drafter):
            weight = await drafter.open(self._config.threshold if chosen.gated else 0.0)
            first = await opening
            if chosen.gated and weight < self._config.threshold:
                return await self._alone(member, prompt_ids, budget, weight, first)
            used = weight if chosen.fixed_weight is None else chosen.fixed_weight
            rounds = _Rounds(member, chosen, drafter, used, self._config.draft_tokens > 0)
            return await rounds.run(first, len(prompt_ids), budget)

    async def score(self, target: str, prompt: str, gold: Sequence[int], strategy: str | None = None) -> Score:
        """Teacher-forced predictions for the `gold` tokens after `prompt` (metrics.md)."""
        member = self.member(target)
        ids = member.codec.encode_prompt(prompt) + list(gold[:-1])
        name = strategy or self._config.strategy
        async with _opening(member.model, ids, rows=len(gold)) as opening:
            if name == UNEDITED:
                step = await opening
                return Score(tuple(int(token) for token in step.top.ids_NK[:, 0]), None, True, 0)
            chosen = await self._strategy(member, name)
            async with contextlib.aclosing(self._drafter(prompt, chosen.drafts)) as drafter:
                weight = await drafter.open(self._config.threshold if chosen.gated else 0.0)
                top = (await opening).top
                if chosen.gated and weight < self._config.threshold:
                    return Score(tuple(int(token) for token in top.ids_NK[:, 0]), weight, True, drafter.passes)
                used = weight if chosen.fixed_weight is None else chosen.fixed_weight
                predicted = []
                for position in range(len(gold)):
                    reading = await _read(drafter, chosen, member.codec, gold[:position])
                    predicted.append(chosen.choose(reading, *top.row(position), used))
                return Score(tuple(predicted), weight, False, drafter.passes)

    async def _strategy(self, member: Member, name: str) -> Strategy:
        """The strategy, built in a thread if this is its first use: an alignment takes a while."""
        async with self._building:
            return await asyncio.to_thread(member.strategy, name)

    def _drafter(self, prompt: str, drafts: bool) -> Drafter:
        return Drafter(
            model=self._plugin,
            codec=self._plugin_codec,
            prompt_ids=self._plugin_codec.encode_prompt(plugin_view(unwrap(prompt), self._view)),
            lead=answer_lead(prompt),
            draft_tokens=self._config.draft_tokens if drafts else 0,
        )

    async def _alone(
        self, member: Member, prompt_ids: list[int], budget: int, weight: float | None, first: Step | None = None
    ) -> Generation:
        """The target's own greedy answer: prefill, then a token at a time, as `transformers` generates.

        first: the prefill, where it was made beside the gate's.
        """
        if first is None:
            step = await member.model.open(prompt_ids, rows=0, decode=budget)
            await member.model.close(step.session)
            return _generation(member, step.new_ids, None, True, len(step.new_ids), 0)
        ids: tuple[int, ...] = (int(first.top.ids_NK[0, 0]),)
        if ids[0] not in member.codec.end_ids and budget > 1:
            step = await member.model.extend(first.session, len(prompt_ids), ids, rows=0, decode=budget - 1)
            ids += step.new_ids
        return _generation(member, ids, weight, True, len(ids), 1)


@dataclass
class _Rounds:
    """Draft and verify for one request whose gate is open."""

    member: Member
    strategy: Strategy
    drafter: Drafter
    weight: float
    speculative: bool
    _emitted: list[int] = field(default_factory=list)

    async def run(self, first: Step, prompt_tokens: int, budget: int) -> Generation:
        """Rounds until the end of text or `budget` tokens; `first` is the target's prefill."""
        fed, passes = prompt_tokens, 1
        pending: list[int] = []
        row: Row | None = first.top.row(0)
        while len(self._emitted) < budget and not self._ended():
            readings = await self._readings(budget - len(self._emitted))
            proposed = [r.proposal.token for r in readings if r.proposal] if self.speculative else []
            rows = [] if row is None else [row]
            try:
                verified = await self._verify(first.session, fed, pending, proposed)
            except ContextLengthError:
                proposed = []  # the draft does not fit any more; the next token alone may
                verified = await self._verify(first.session, fed, pending, proposed)
            rows += verified
            passes += bool(verified)
            accepted = self._accept(readings, rows, proposed)
            fed += len(pending) + accepted
            pending, row = (
                (self._emitted[-1:], None) if accepted < len(proposed) or not proposed else ([], rows[accepted])
            )
        return _generation(self.member, tuple(self._emitted), self.drafter.weight, False, passes, self.drafter.passes)

    async def _verify(self, session: int, fed: int, pending: list[int], proposed: list[int]) -> list[Row]:
        """Run what is not in the target's cache yet and the draft in one pass; a row after each token."""
        feed = pending + [token for token in proposed if token not in self.member.codec.end_ids]
        if not feed:
            return []
        step = await self.member.model.extend(session, fed, feed, rows=len(feed))
        return [step.top.row(i) for i in range(len(feed))]

    async def _readings(self, left: int) -> list[Reading]:
        """What the plug-in says at the next positions, as far as its draft reaches."""
        codec = self.member.codec
        readings = [await _read(self.drafter, self.strategy, codec, self._emitted)]
        offset = len(codec.bytes_of(self._emitted))
        while self.speculative and len(readings) < left and (proposal := readings[-1].proposal) is not None:
            offset += len(codec.surface(proposal.token))
            if proposal.token in codec.end_ids or not self.drafter.ready(offset):
                break
            readings.append(await self.drafter.read(offset, codec))
        return readings

    def _accept(self, readings: list[Reading], rows: list[Row], proposed: list[int]) -> int:
        """Fuse position after position while the choice is the drafted token; how many drafted ones were kept."""
        for position, (reading, row) in enumerate(zip(readings, rows, strict=False)):
            self._emitted.append(self.strategy.choose(reading, *row, self.weight))
            if position >= len(proposed) or self._emitted[-1] != proposed[position]:
                return position
            if self._ended():
                return position
        return len(proposed)

    def _ended(self) -> bool:
        return bool(self._emitted) and self._emitted[-1] in self.member.codec.end_ids


@contextlib.asynccontextmanager
async def _opening(model: LanguageModel, ids: Sequence[int], rows: int) -> AsyncIterator[asyncio.Future[Step]]:
    """A session that is prefilled while the block runs, and closed after it however the block ends."""
    opening = asyncio.ensure_future(model.open(ids, rows=rows))
    try:
        yield opening
    finally:
        with contextlib.suppress(OnceEditError):
            await model.close((await opening).session)


def answer_lead(prompt: str) -> bytes:
    """What an answer starts with for the plug-in alone: the space that this prompt already ends with."""
    return b" " if prompt[-1:].isspace() else b""


async def _read(drafter: Drafter, strategy: Strategy, codec: Codec, emitted: Sequence[int]) -> Reading:
    answer = codec.bytes_of(emitted)
    if not strategy.drafts:
        return await drafter.boundary(answer)
    await drafter.follow(answer)
    return await drafter.read(len(answer), codec)


def _generation(
    member: Member, ids: tuple[int, ...], weight: float | None, alone: bool, passes: int, plugin_passes: int
) -> Generation:
    ended = bool(ids) and ids[-1] in member.codec.end_ids
    return Generation(member.name, member.codec.text_of(ids), ids, weight, alone, passes, plugin_passes, ended)
