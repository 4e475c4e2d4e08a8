"""The evaluation loop: asks one target every probe of every edit (metrics.md).

All edits are made first, then everything is scored. The loop uses neither models nor Ray: it asks an `Answerer`, which
is a `FusedDecoder` in this process or a coordinator actor in another one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from onceedit_ray.config import EvaluationConfig, Shape
from onceedit_ray.errors import ContextLengthError, PromptError, UnwritableError
from onceedit_ray.evaluation.metrics import generation_accuracy, text_match, token_accuracy
from onceedit_ray.evaluation.records import GateKind, GateRecord, Property, Record
from onceedit_ray.fusion.decoder import UNEDITED
from onceedit_ray.fusion.outputs import Generation, Score
from onceedit_ray.knowledge.edit import Edit, quoted

Scoring = Callable[[], Coroutine[Any, Any, list[Record]]]

EXTRA_TOKENS = 2
"""Tokens generated beyond the length of the gold answer, so that text match can tell where the last word ends."""


_UNASKED = (ContextLengthError, PromptError)
"""Errors of a prompt, or an answer, that a model cannot take; they say nothing about the other prompts."""


class Answerer(Protocol):
    """The methods that the system under test must have."""

    async def generate(
        self, target: str, prompt: str, strategy: str | None = None, max_new_tokens: int | None = None
    ) -> Generation:
        """A greedy answer."""

    async def score(self, target: str, prompt: str, gold: Sequence[int], strategy: str | None = None) -> Score:
        """Teacher-forced predictions for `gold`."""

    async def gate(self, prompt: str) -> float:
        """The gate weight of a prompt."""

    async def render(self, target: str, question: str, shape: str) -> str:
        """A question in a prompt shape, as the text that this target reads."""

    async def gold(self, target: str, prompt: str, answer: str) -> tuple[int, ...]:
        """The target's tokens of an answer after a prompt."""

    async def text(self, target: str, ids: Sequence[int]) -> str:
        """The text of a target's tokens."""

    async def restriction(self, target: str, strategy: str) -> str:
        """A note on how this strategy was restricted, which results must show; "" if it was not."""


@dataclass(frozen=True)
class Probed:
    """One prompt for a target: the edit and the property that it belongs to, and the expected answer."""

    record: int
    property: Property
    question: str
    expected: str


def probes(edits: Sequence[Edit], portability: bool = True) -> Iterator[Probed]:
    """Every probe of every edit, in order."""
    for index, edit in enumerate(edits):
        yield Probed(index, "reliability", edit.prompt, edit.target_new)
        for rephrasing in edit.rephrasings:
            yield Probed(index, "generality", rephrasing, edit.target_new)
        for probe in edit.locality:
            yield Probed(index, "locality", probe.prompt, probe.answer)
        for probe in edit.portability if portability else ():
            yield Probed(index, "portability", probe.prompt, probe.answer)


class Evaluation:
    """Scores one target.

    Args:
        answerer: the edited system; with strategy `UNEDITED` it is the unedited target.
        target: its name. run: the run's name, for the records. config: what to score.
        progress: called with 1 after each probe. note: called with a line for each prompt that cannot be asked.
    """

    def __init__(
        self,
        answerer: Answerer,
        target: str,
        run: str,
        config: EvaluationConfig,
        progress: Callable[[int], None] = lambda done: None,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._answerer = answerer
        self._target = target
        self._run = run
        self._config = config
        self._progress = progress
        self._note = note
        self._restrictions: dict[str, str] = {}

    async def run(self, edits: Sequence[Edit], general: Sequence[str] = ()) -> list[Record]:
        """All records of this target: its unedited answers, and each strategy's answers after the edit."""
        for strategy in self._config.strategies:
            self._restrictions[strategy] = await self._answerer.restriction(self._target, strategy)
        turns = asyncio.Semaphore(self._config.concurrency)

        async def in_turn(scoring: Scoring) -> list[Record]:
            async with turns:
                records = await scoring()
                self._progress(1)
                return records

        scorings: list[Scoring] = [partial(self._probe, each) for each in probes(edits, self._config.portability)]
        scorings += [partial(self._drift, index, text) for index, text in enumerate(general)]
        running = [asyncio.ensure_future(in_turn(scoring)) for scoring in scorings]
        try:
            found = await asyncio.gather(*running)
        finally:
            for task in running:  # after an error the others would go on asking the models
                task.cancel()
        return [record for records in found for record in records]

    async def _probe(self, probed: Probed) -> list[Record]:
        try:
            return await self._scored(probed)
        except _UNASKED as error:
            reason = self._left_out(f"edit {probed.record + 1}, {probed.property}", probed.question, error)
            if probed.property == "locality":
                return []
            nothing = Generation(self._target, "", (), None, True, 0, 0, False)
            return self._missed(probed, probed.question, nothing, 0.0, reason)

    async def _scored(self, probed: Probed) -> list[Record]:
        prompt = await self._answerer.render(self._target, probed.question, self._config.shape)
        try:
            gold = await self._answerer.gold(self._target, prompt, probed.expected)
        except UnwritableError:
            return await self._unwritable(probed, prompt)
        records: list[Record] = []
        if "teacher_forced" in self._config.settings and gold:
            records += await self._teacher_forced(probed, prompt, gold)
        if "generation" in self._config.settings and gold:
            records += await self._generation(probed, prompt, gold)
        return records

    async def _unwritable(self, probed: Probed, prompt: str) -> list[Record]:
        """The records of an answer that the target's vocabulary cannot spell.

        Every strategy misses it. For locality, where an answer must stay as it was, the target's own answers are
        compared.
        """
        if probed.property == "locality":
            return await self._generation(probed, prompt, (0,) * EXTRA_TOKENS)
        own, seconds = await self._answer(prompt, UNEDITED, EXTRA_TOKENS)
        return self._missed(probed, prompt, own, seconds, "the target's vocabulary cannot spell the answer")

    def _missed(self, probed: Probed, prompt: str, own: Generation, seconds: float, reason: str) -> list[Record]:
        """The records of an answer that no strategy can give."""
        missed = []
        for setting in self._config.settings:
            for strategy in (UNEDITED, *self._config.strategies):
                record = self._generated(
                    probed.record, probed.property, strategy, prompt, own, own, seconds,
                    expected=probed.expected, score=0.0, match=0.0,
                )  # fmt: skip
                match = 0.0 if setting == "generation" else None
                missed.append(replace(record, setting=setting, text_match=match, restricted=reason))
        return missed

    def _left_out(self, what: str, question: str, error: Exception) -> str:
        """Report that a prompt cannot be asked; returns the line."""
        line = f"{what}: {quoted(question)} cannot be asked ({error})"
        self._note(f"{self._target}: {line}")
        return line

    async def _teacher_forced(self, probed: Probed, prompt: str, gold: tuple[int, ...]) -> list[Record]:
        own = await self._answerer.score(self._target, prompt, gold, UNEDITED)
        own_text = await self._answerer.text(self._target, own.predicted)
        reference = own.predicted if probed.property == "locality" else gold
        records = []
        for strategy in (UNEDITED, *self._config.strategies):
            started = time.monotonic()
            score = own if strategy == UNEDITED else await self._answerer.score(self._target, prompt, gold, strategy)
            records.append(
                Record(
                    run=self._run,
                    record=probed.record,
                    target=self._target,
                    strategy=strategy,
                    setting="teacher_forced",
                    property=probed.property,
                    prompt=prompt,
                    shape=self._config.shape,
                    expected=own_text if probed.property == "locality" else probed.expected,
                    output=await self._answerer.text(self._target, score.predicted),
                    unedited_output=own_text,
                    score=token_accuracy(score.predicted, reference),
                    gate_weight=score.weight,
                    alone=score.alone,
                    target_passes=1,
                    plugin_passes=score.plugin_passes,
                    new_tokens=len(gold),
                    seconds=time.monotonic() - started,
                    restricted=self._restrictions.get(strategy, ""),
                )
            )
        return records

    async def _generation(self, probed: Probed, prompt: str, gold: tuple[int, ...]) -> list[Record]:
        budget = len(gold) + EXTRA_TOKENS
        own, own_seconds = await self._answer(prompt, UNEDITED, budget)
        reference = own.token_ids[: len(gold)] if probed.property == "locality" else gold
        expected = probed.expected
        if probed.property == "locality":
            expected = await self._answerer.text(self._target, reference)
        records = []
        for strategy in (UNEDITED, *self._config.strategies):
            answer, seconds = (own, own_seconds)
            if strategy != UNEDITED:
                answer, seconds = await self._answer(prompt, strategy, budget)
            same = probed.property == "locality" and answer.token_ids[: len(gold)] == reference
            records.append(
                self._generated(
                    probed.record, probed.property, strategy, prompt, answer, own, seconds,
                    expected=expected,
                    score=generation_accuracy(answer.token_ids, reference),
                    match=1.0 if same else text_match(answer.text, expected),
                )
            )  # fmt: skip
        return records

    async def _drift(self, index: int, text: str) -> list[Record]:
        """Whether the answer to a general prompt is bit-identical to the unedited target's."""
        try:
            return await self._compared(index, text)
        except _UNASKED as error:
            self._left_out(f"general prompt {index + 1}", text, error)
            return []

    async def _compared(self, index: int, text: str) -> list[Record]:
        prompt = await self._answerer.render(self._target, text, self._config.shape)
        own, _ = await self._answer(prompt, UNEDITED, self._config.drift_tokens)
        records = []
        for strategy in self._config.strategies:
            answer, seconds = await self._answer(prompt, strategy, self._config.drift_tokens)
            records.append(
                self._generated(
                    index, "general", strategy, prompt, answer, own, seconds,
                    expected=own.text,
                    score=float(answer.token_ids == own.token_ids),
                    match=text_match(answer.text, own.text),
                )
            )  # fmt: skip
        return records

    async def _answer(self, prompt: str, strategy: str, budget: int) -> tuple[Generation, float]:
        started = time.monotonic()
        answer = await self._answerer.generate(self._target, prompt, strategy, budget)
        return answer, time.monotonic() - started

    def _generated(
        self,
        record: int,
        of: Property,
        strategy: str,
        prompt: str,
        answer: Generation,
        own: Generation,
        seconds: float,
        *,
        expected: str,
        score: float,
        match: float,
    ) -> Record:
        return Record(
            run=self._run,
            record=record,
            target=self._target,
            strategy=strategy,
            setting="generation",
            property=of,
            prompt=prompt,
            shape=self._config.shape,
            expected=expected,
            output=answer.text,
            unedited_output=own.text,
            score=score,
            text_match=match,
            gate_weight=answer.weight,
            alone=answer.alone,
            target_passes=answer.target_passes,
            plugin_passes=answer.plugin_passes,
            new_tokens=len(answer.token_ids),
            seconds=seconds,
            restricted=self._restrictions.get(strategy, ""),
        )


async def read_gate(
    answerer: Answerer,
    target: str,
    edits: Sequence[Edit],
    general: Sequence[str],
    shapes: Sequence[Shape],
    concurrency: int = 1,
    progress: Callable[[int], None] = lambda done: None,
    note: Callable[[str], None] = lambda line: None,
) -> list[GateRecord]:
    """The gate's weight for every edit, rephrasing, locality and general prompt, in every shape.

    Chat prompts are written with the chat template of `target`. A prompt that cannot be asked is left out, and `note`
    is called with a line about it.
    """
    prompts: list[tuple[GateKind, str]] = [("edit", edit.prompt) for edit in edits]
    prompts += [("rephrasing", text) for edit in edits for text in edit.rephrasings]
    prompts += [("locality", probe.prompt) for edit in edits for probe in edit.locality]
    prompts += [("general", text) for text in general]
    turns = asyncio.Semaphore(concurrency)

    async def readings(kind: GateKind, question: str) -> list[GateRecord]:
        async with turns:
            found = []
            for shape in shapes:
                try:
                    prompt = await answerer.render(target, question, shape)
                    found.append(GateRecord(kind, shape, question, await answerer.gate(prompt)))
                except _UNASKED as error:
                    note(f"the gate, {kind}: {quoted(question)} cannot be asked ({error})")
            progress(1)
            return found

    return [record for found in await asyncio.gather(*(readings(*prompt) for prompt in prompts)) for record in found]
