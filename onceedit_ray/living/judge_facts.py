"""May these facts go live? A reader is asked about the new ones, their near misses and their neighbours, in seconds.

Nothing was trained, so nothing else can have changed: an edit in another subject's view is never read. Asked is the
plug-in alone, in the views that a request would be asked in.
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
from onceedit_ray.reader.examples import near_miss
from onceedit_ray.reader.facts import Fact, kind_of

NEAR_MISSES = 6
"""Requests about an edit's subject that do not ask for it, made for each new edit."""
NEIGHBOURS = 4
"""Live edits about the same subject that are asked for again."""
MOST_OPEN = 0.25
"""Share of near misses for which the gate may open."""
ANSWER_TOKENS = 24


async def judge_facts(plugin: Plugin, new: Sequence[Edit], bounds: LivingConfig, threshold: float) -> Judgement:
    """Judge `new` edits of a plug-in that reads them and all others (`plugin.facts`).

    Figures: `learnt`, share of new edits whose own prompt is answered with them; `kept`, the same for their neighbours;
    `near_misses_open`, share of near misses for which the gate opens.
    """
    assert plugin.facts is not None, "only a plug-in that reads facts is judged so"
    asked = list(new)[: bounds.old_limit or None]
    neighbours = {
        found.id: found.edit
        for edit in asked
        for found in plugin.facts.find(edit.prompt, NEIGHBOURS + 1)
        if found.edit not in asked
    }
    rng = random.Random(0)
    misses = [miss for edit in asked for miss in _near_misses(edit, rng)]
    learnt = await asyncio.gather(*(_is_answered(plugin, edit, threshold) for edit in asked))
    kept = await asyncio.gather(*(_is_answered(plugin, edit, threshold) for edit in neighbours.values()))
    opened = [weight >= threshold for weight, _ in await asyncio.gather(*(_ask(plugin, miss) for miss in misses))]
    figures = {
        "learnt": _share(learnt),
        "kept": _share(kept),
        "near_misses_open": _share(opened),
        "new_edits": len(asked),
        "old_edits": len(neighbours),
        "near_misses": len(misses),
        "bounds": {"learnt": bounds.learnt, "kept": bounds.kept, "near_misses_open": MOST_OPEN},
    }
    return Judgement(figures, _reason(figures, asked, learnt, bounds))


def _near_misses(edit: Edit, rng: random.Random) -> list[str]:
    if not edit.subject:
        return []
    fact = Fact(edit.prompt, edit.target_new, edit.subject, kind_of(edit.prompt), ())
    return list({near_miss(fact, rng) for _ in range(NEAR_MISSES)})


async def _is_answered(plugin: Plugin, edit: Edit, threshold: float) -> bool:
    weight, text = await _ask(plugin, edit.prompt)
    return weight >= threshold and text.strip().casefold().startswith(edit.target_new.strip().casefold())


async def _ask(plugin: Plugin, question: str) -> tuple[float, str]:
    """The gate's weight for a question, and what the plug-in would answer."""
    views = plugin.views(question)
    if not views:
        return 0.0, ""
    prompts = [list(plugin.codec.text_prompt(view.text).ids) for view in views]
    drafter = Drafter(plugin.model, plugin.codec, prompts, ANSWER_TOKENS)
    try:
        weight = await drafter.open(threshold=0.5)
        return weight, plugin.codec.text_of(drafter.drafted)
    finally:
        await drafter.aclose()


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _reason(
    figures: Mapping[str, object], new: Sequence[Edit], learnt: Sequence[bool], bounds: LivingConfig
) -> str | None:
    problems = []
    missed = [edit.prompt for edit, answered in zip(new, learnt, strict=True) if not answered]
    if _below(figures["learnt"], bounds.learnt):
        problems.append(f"the plug-in does not answer {missed[0]!r} with the edit; put the question another way")
    if _below(figures["kept"], bounds.kept):
        problems.append(f"edits about the same subject are answered less often, {figures['kept']:.2f}")
    opened = figures["near_misses_open"]
    if isinstance(opened, float) and opened > MOST_OPEN:
        problems.append(
            f"the gate opens for {opened:.2f} of other requests about the subject, above {MOST_OPEN:g}; "
            "name the subject in full"
        )
    return "; ".join(problems) or None


def _below(figure: object, bound: float) -> bool:
    return isinstance(figure, float) and figure < bound
