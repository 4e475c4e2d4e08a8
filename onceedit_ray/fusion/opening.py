"""Decides how a reply begins: to a yes/no question about a fact, with yes or no and the fact; to a reversed question
(`fusion.turned`), with the fact's subject; to a question for several facts (`fusion.several`), with all of them.

The request is reworded into one that asks for the fact. If the plug-in's gate opens for the reworded request, and the
plug-in gives the fact's answer, the reply begins with the opening and the target continues it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass

from onceedit_ray.fusion.candidates import CANDIDATES, turned_candidates
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.read_along import LONGEST_ANSWER
from onceedit_ray.fusion.several import asked_alone, subjects_in, told_together
from onceedit_ray.fusion.turned import turned
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_index import Found
from onceedit_ray.models.prompt import Prompt
from onceedit_ray.reader.view import as_read, asked, fact_line

SURE = 0.9
"""Lowest gate weight for a reworded request: it is not what the user wrote."""
SEVERAL_SURE = 0.75
"""The same for each of several facts: the request for it is a part of what the user wrote."""


@dataclass(frozen=True)
class Opening:
    """The beginning of a reply. edits: ids of the facts that it states. weight: the gate's w for the reworded request;
    the lowest one of several.
    """

    text: str
    edits: tuple[str, ...]
    weight: float


async def opening_of(plugin: Plugin, prompt: Prompt) -> tuple[Opening | None, int]:
    """How the reply to a request begins, None if the target begins it; and the number of plug-in passes."""
    assert plugin.facts is not None, "only a plug-in that reads facts can be asked about one"
    request = as_read(prompt.question)
    found = turned_candidates(plugin.facts, request)
    if parts := _asked_alone(request, found):
        weights = await asyncio.gather(*(_weight(plugin, each.edit, alone) for each, alone in parts))
        return _together(parts, weights), len(parts)
    ways = [(each.id, each.edit, way) for each in found for way in turned(request, each.edit)][:CANDIDATES]
    weights = await asyncio.gather(*(_weight(plugin, edit, way.asks) for _, edit, way in ways))
    best = max(zip(weights, ways, strict=True), key=lambda pair: pair[0], default=None)
    if best is None or best[0] < SURE:
        return None, len(ways)
    weight, (id, _, way) = best
    return Opening(way.opening, (id,), weight), len(ways)


def _asked_alone(request: str, found: Sequence[Found]) -> list[tuple[Found, str]]:
    """The facts of several subjects that a request names, each with the request for it alone; none if it is one."""
    subjects = subjects_in(request, [each.edit for each in found])
    if len(subjects) < 2:
        return []
    alone = []
    for subject in subjects:
        reduced = asked_alone(request, subject, [other for other in subjects if other != subject])
        alone += [(each, reduced) for each in found if reduced and each.edit.subject.strip() == subject]
    return alone


def _together(asked: Sequence[tuple[Found, str]], weights: Sequence[float]) -> Opening | None:
    """The opening that states the fact of highest weight of each subject; None if fewer than two are asked for."""
    best: dict[str, tuple[float, Found, str]] = {}
    for (found, alone), weight in zip(asked, weights, strict=True):
        if weight >= SEVERAL_SURE and weight > best.get(found.edit.subject, (0.0,))[0]:
            best[found.edit.subject] = weight, found, alone
    if len(best) < 2:
        return None
    text = told_together([(alone, found.edit) for _, found, alone in best.values()])
    return Opening(text, tuple(found.id for _, found, _ in best.values()), min(each[0] for each in best.values()))


async def _weight(plugin: Plugin, edit: Edit, request: str) -> float:
    """The gate's w for a request beside a fact; 0 if the plug-in does not give the fact's answer."""
    ids = plugin.codec.text_prompt(asked([fact_line(edit)], request)).ids
    step = await plugin.model.open(list(ids), rows=1, decode=LONGEST_ANSWER, threshold=SEVERAL_SURE)
    await plugin.model.close(step.session)
    text = plugin.codec.text_of(token for token in step.new_ids if token not in plugin.codec.end_ids)
    return (step.weight or 0.0) if _begins_with(text, edit.target_new) else 0.0


def _begins_with(text: str, answer: str) -> bool:
    return re.match(rf"\s*{re.escape(answer.strip())}(?!\w)", text, re.IGNORECASE) is not None
