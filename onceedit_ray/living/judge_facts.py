"""Judges whether new facts may go live: a reader is asked about them, their near misses, tasks on texts and neighbours.

Nothing was trained, so nothing else can have changed: an edit is never read in a view of another subject. Only the
plug-in is asked, in the same views as for a request. The time depends on the new facts, not on how many are
live.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onceedit_ray.config import LivingConfig
from onceedit_ray.evaluation.acceptance import Judgement
from onceedit_ray.fusion.drafter import Drafter
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.selection import normalised, question_key
from onceedit_ray.living.hard_negatives import near_misses, tasks
from onceedit_ray.models.codec import common_prefix
from onceedit_ray.models.protocol import Step
from onceedit_ray.reader.view import asked, fact_line

MOST_JUDGED = 40
"""Maximum number of new facts of one call that are judged; of more facts, a random sample is judged."""
NEAR_MISSES = 4
"""Near misses drawn for each new edit: requests about its subject that do not ask for it. Equal ones are asked once."""
TASKS = 2
"""Tasks drawn for each new edit, such as a translation, on a text that contains its prompt."""
NEIGHBOURS = 4
"""Maximum number of live edits, found for a new edit's prompt, that are asked for again."""
WORDINGS = 2
"""Rephrasings of a neighbour that are asked; its prompt if it has none."""
ANSWER_TOKENS = 64
"""Maximum number of tokens that are written to compare an answer's text; of a longer answer only the beginning is
compared."""
AT_ONCE = 8
"""Edits that are judged at once."""


async def judge_facts(plugin: Plugin, new: Sequence[Edit], bounds: LivingConfig, threshold: float) -> Judgement:
    """Judge edits that a plug-in, which reads facts, would read beside the live ones (`plugin.facts`).

    Figures: `learnt`, share of new edits whose own prompt is answered with them; `kept`, of the neighbours' questions
    for which the gate is open, the share for which it stays wider open for the neighbour than for the new edit;
    `near_misses_open` and `tasks_open`, share of near misses and of tasks on a text for which the gate opens.
    """
    assert plugin.facts is not None, "only a plug-in that reads facts is judged so"
    rng = random.Random(0)
    judged = list(new) if len(new) <= MOST_JUDGED else rng.sample(list(new), MOST_JUDGED)
    prompts = {question_key(edit.prompt) for edit in new}
    asked_of = [
        _Asked(
            edit,
            near_misses(edit, rng, NEAR_MISSES),
            tasks(edit, rng, TASKS),
            [(old, ask) for old in _neighbours(plugin, edit, prompts) for ask in _wordings(old)],
        )
        for edit in judged
    ]
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(each: _Asked) -> _Found:
        async with turns:
            return await _found(plugin, each, threshold)

    found = await asyncio.gather(*map(in_turn, asked_of))
    learnt = [each.is_answered for each in found]
    figures = {
        "learnt": _share(learnt),
        "kept": _share([kept for each in found for kept in each.kept]),
        "near_misses_open": _share([is_open for each in found for is_open in each.misses_open]),
        "tasks_open": _share([is_open for each in found for is_open in each.tasks_open]),
        "new_edits": len(judged),
        "old_edits": len({id(old) for each in asked_of for old, _ in each.rivals}),
        "near_misses": sum(len(each.misses) for each in asked_of),
        "bounds": {
            "learnt": bounds.learnt,
            "kept": bounds.kept,
            "near_misses": bounds.near_misses,
        },
    }
    return Judgement(figures, _reason(figures, judged, learnt, bounds))


@dataclass(frozen=True)
class _Asked:
    """What a new edit is judged by. rivals: live edits that are near to it, each with a question for it."""

    edit: Edit
    misses: list[str]
    tasks: list[str]
    rivals: list[tuple[Edit, str]]


@dataclass(frozen=True)
class _Found:
    """How one edit was read. kept: for each rival that answers, whether it still does."""

    is_answered: bool
    misses_open: list[bool]
    tasks_open: list[bool]
    kept: list[bool]


async def _found(plugin: Plugin, about: _Asked, threshold: float) -> _Found:
    facts = {edit: _ReadFact(plugin, edit) for edit in (about.edit, *(old for old, _ in about.rivals))}
    try:
        opened = await asyncio.gather(*(fact.open() for fact in facts.values()), return_exceptions=True)
        if failed := next((each for each in opened if each is not None), None):
            raise failed
        new = facts[about.edit]
        is_answered, misses, on_text, own, others = await asyncio.gather(
            new.is_answered(threshold),
            asyncio.gather(*map(new.weight, about.misses)),
            asyncio.gather(*map(new.weight, about.tasks)),
            asyncio.gather(*(facts[old].weight(ask) for old, ask in about.rivals)),
            asyncio.gather(*(new.weight(ask) for _, ask in about.rivals)),
        )
    finally:
        for fact in facts.values():
            await fact.aclose()
    return _Found(
        is_answered,
        [weight >= threshold for weight in misses],
        [weight >= threshold for weight in on_text],
        [w >= other for w, other in zip(own, others, strict=True) if w >= threshold],
    )


class _ReadFact:
    """A fact that the plug-in has read once; every question about it is read on a fork of that session."""

    def __init__(self, plugin: Plugin, edit: Edit) -> None:
        self._plugin = plugin
        self._edit = edit
        views = (self._view("Who?"), self._view("What is it?"))
        self._ids = views[0][: common_prefix(*views)]
        self._session: int | None = None

    async def open(self) -> None:
        """Read the fact."""
        self._session = (await self._plugin.model.open(self._ids)).session

    async def aclose(self) -> None:
        """Free the session."""
        if self._session is not None:
            await self._plugin.model.close(self._session)

    async def weight(self, question: str) -> float:
        """The gate's weight for a question."""
        return (await self._step(self._view(question))).weights[-1]

    async def is_answered(self, threshold: float) -> bool:
        """Whether the plug-in, asked the edit's own prompt, would write its answer: the whole of it, in one pass."""
        view, codec = self._view(self._edit.question), self._plugin.codec
        answer = list(codec.encode_bytes(f" {normalised(self._edit.target_new)}".encode()))
        step = await self._step([*view, *answer[:-1]], len(answer))
        if step.weights[0] < threshold:
            return False
        return step.top.ids_NK[:, 0].tolist() == answer or await self._is_written(view, len(answer))

    async def _is_written(self, view: list[int], tokens: int) -> bool:
        """As `is_answered`, for an answer that may be written in other tokens, or with capitals: texts are compared."""
        codec = self._plugin.codec
        drafter = Drafter(self._plugin.model, codec, [view], min(tokens + 2, ANSWER_TOKENS))
        try:
            await drafter.open(0.0)
            drafted = drafter.drafted
        finally:
            await drafter.aclose()
        text, wanted = (normalised(each).casefold() for each in (codec.text_of(drafted), self._edit.target_new))
        return text.startswith(wanted) or (tokens > ANSWER_TOKENS and bool(text) and wanted.startswith(text))

    async def _step(self, ids: list[int], rows: int = 1) -> Step:
        """The last `rows` positions of tokens that begin with the fact."""
        assert self._session is not None, "the fact is read first"
        model, keep = self._plugin.model, common_prefix(self._ids, ids)
        fork = await model.fork(self._session)
        try:
            return await model.extend(fork, keep, ids[keep:], rows)
        finally:
            await model.close(fork)

    def _view(self, question: str) -> list[int]:
        return list(self._plugin.codec.text_prompt(asked([fact_line(self._edit)], question)).ids)


def _neighbours(plugin: Plugin, edit: Edit, prompts: set[str]) -> list[Edit]:
    """Live edits that a request about `edit` may be about too, without those that the call replaces."""
    assert plugin.facts is not None
    found = plugin.facts.find(edit.question, NEIGHBOURS + 1)
    return [each.edit for each in found if question_key(each.edit.prompt) not in prompts][:NEIGHBOURS]


def _wordings(edit: Edit) -> Sequence[str]:
    return edit.rephrasings[:WORDINGS] or (edit.question,)


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _reason(
    figures: Mapping[str, object], new: Sequence[Edit], learnt: Sequence[bool], bounds: LivingConfig
) -> str | None:
    problems = []
    missed = [_short(edit.prompt) for edit, answered in zip(new, learnt, strict=True) if not answered]
    if _below(figures["learnt"], bounds.learnt):
        problems.append(f"the plug-in does not answer {missed[0]!r} with the edit; put the question another way")
    if _below(figures["kept"], bounds.kept):
        problems.append(
            f"it would answer for other edits: only {figures['kept']:.2f} of the questions about those nearest to it "
            "keep their answers; name in the prompt what is asked for"
        )
    for name, what, advice in (
        ("near_misses_open", "other requests about the subject", "name the subject in full"),
        ("tasks_open", "tasks on a text that holds the prompt", "put the prompt another way"),
    ):
        opened = figures[name]
        if isinstance(opened, float) and opened > bounds.near_misses:
            problems.append(f"the gate opens for {opened:.2f} of {what}, above {bounds.near_misses:g}; {advice}")
    return "; ".join(problems) or None


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:97] + "..."


def _below(figure: object, bound: float) -> bool:
    return isinstance(figure, float) and figure < bound
