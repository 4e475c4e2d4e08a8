"""Judges whether new facts may go live: a reader is asked about them, their near misses, tasks on texts and neighbours.

Nothing was trained, so nothing else can have changed: an edit is never read in a view of another subject. Only the
plug-in is asked, in the same views as for a request. The time depends on the new facts, not on how many are
live.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

from onceedit_ray.config import LivingConfig
from onceedit_ray.evaluation.acceptance import Judgement
from onceedit_ray.fusion.drafter import Drafter
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.selection import normalised, question_key
from onceedit_ray.living.hard_negatives import near_misses, tasks
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
NEVER = 2.0
"""A threshold above every gate weight: nothing is drafted."""


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
    misses = [(edit, miss) for edit in judged for miss in near_misses(edit, rng, NEAR_MISSES)]
    on_text = [(edit, task) for edit in judged for task in tasks(edit, rng, TASKS)]
    rivals = [
        (edit, old, ask) for edit in judged for old in _neighbours(plugin, edit, prompts) for ask in _wordings(old)
    ]
    learnt, opened, tasks_opened, own, others = await asyncio.gather(
        asyncio.gather(*(_is_answered(plugin, edit, threshold) for edit in judged)),
        asyncio.gather(*(_weight(plugin, edit, miss) for edit, miss in misses)),
        asyncio.gather(*(_weight(plugin, edit, task) for edit, task in on_text)),
        asyncio.gather(*(_weight(plugin, old, ask) for _, old, ask in rivals)),
        asyncio.gather(*(_weight(plugin, edit, ask) for edit, _, ask in rivals)),
    )
    kept = [w >= other for w, other in zip(own, others, strict=True) if w >= threshold]
    figures = {
        "learnt": _share(learnt),
        "kept": _share(kept),
        "near_misses_open": _share([weight >= threshold for weight in opened]),
        "tasks_open": _share([weight >= threshold for weight in tasks_opened]),
        "new_edits": len(judged),
        "old_edits": len({id(old) for _, old, _ in rivals}),
        "near_misses": len(misses),
        "bounds": {
            "learnt": bounds.learnt,
            "kept": bounds.kept,
            "near_misses": bounds.near_misses,
        },
    }
    return Judgement(figures, _reason(figures, judged, learnt, bounds))


def _neighbours(plugin: Plugin, edit: Edit, prompts: set[str]) -> list[Edit]:
    """Live edits that a request about `edit` may be about too, without those that the call replaces."""
    assert plugin.facts is not None
    found = plugin.facts.find(edit.question, NEIGHBOURS + 1)
    return [each.edit for each in found if question_key(each.edit.prompt) not in prompts][:NEIGHBOURS]


def _wordings(edit: Edit) -> Sequence[str]:
    return edit.rephrasings[:WORDINGS] or (edit.question,)


async def _is_answered(plugin: Plugin, edit: Edit, threshold: float) -> bool:
    """Whether the plug-in, asked the edit's own prompt, would write its answer: the whole of it, in one pass."""
    view = _view(plugin, edit, edit.question)
    answer = list(plugin.codec.encode_bytes(f" {normalised(edit.target_new)}".encode()))
    step = await plugin.model.open([*view, *answer[:-1]], rows=len(answer))
    await plugin.model.close(step.session)
    if step.weights and step.weights[0] < threshold:
        return False
    return step.top.ids_NK[:, 0].tolist() == answer or await _is_written(plugin, edit, view, len(answer))


async def _is_written(plugin: Plugin, edit: Edit, view: list[int], tokens: int) -> bool:
    """As `_is_answered`, for an answer that may be written in other tokens, or with capitals: the text is compared."""
    drafter = Drafter(plugin.model, plugin.codec, [view], min(tokens + 2, ANSWER_TOKENS))
    try:
        await drafter.open(0.0)
        drafted = drafter.drafted
    finally:
        await drafter.aclose()
    text, wanted = (normalised(each).casefold() for each in (plugin.codec.text_of(drafted), edit.target_new))
    return text.startswith(wanted) or (tokens > ANSWER_TOKENS and bool(text) and wanted.startswith(text))


async def _weight(plugin: Plugin, edit: Edit, question: str) -> float:
    """The gate's weight for an edit and a question."""
    drafter = Drafter(plugin.model, plugin.codec, [_view(plugin, edit, question)], 0)
    try:
        return await drafter.open(NEVER)
    finally:
        await drafter.aclose()


def _view(plugin: Plugin, edit: Edit, question: str) -> list[int]:
    return list(plugin.codec.text_prompt(asked([fact_line(edit)], question)).ids)


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
