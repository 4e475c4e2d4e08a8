"""How a reply begins to a request that turns a fact round (`fusion.turned`): with yes or no and the fact, or with the
fact's subject.

The request is reworded into one that asks for the fact. If the plug-in's gate opens for that, and the plug-in gives the
fact's answer, the reply begins with the opening and the target goes on.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

from onceedit_ray.fusion.candidates import CANDIDATES, turned_candidates
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.turned import turned
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.prompt import Prompt
from onceedit_ray.reader.view import as_read, asked, fact_line

SURE = 0.9
"""Lowest gate weight for a reworded request: it is not what the user wrote."""
MOST_TOKENS = 24
"""Plug-in tokens that are decoded to see whether it gives the fact's answer."""


@dataclass(frozen=True)
class Opening:
    """The beginning of a reply. edit: id of the fact that it states. weight: the gate's w for the reworded request."""

    text: str
    edit: str
    weight: float


async def opening_of(plugin: Plugin, prompt: Prompt) -> tuple[Opening | None, int]:
    """How the reply to a request begins, None if the request turns no fact round; and the passes of the plug-in."""
    assert plugin.facts is not None, "only a plug-in that reads facts can be asked about one"
    request = as_read(prompt.question)
    found = turned_candidates(plugin.facts, request)
    ways = [(each.id, each.edit, way) for each in found for way in turned(request, each.edit)][:CANDIDATES]
    weights = await asyncio.gather(*(_weight(plugin, edit, way.asks) for _, edit, way in ways))
    best = max(zip(weights, ways, strict=True), key=lambda pair: pair[0], default=None)
    if best is None or best[0] < SURE:
        return None, len(ways)
    weight, (id, _, way) = best
    return Opening(way.opening, id, weight), len(ways)


async def _weight(plugin: Plugin, edit: Edit, request: str) -> float:
    """The gate's w for a request beside a fact; 0 if the plug-in does not give the fact's answer."""
    ids = plugin.codec.text_prompt(asked([fact_line(edit)], request)).ids
    step = await plugin.model.open(list(ids), rows=1, decode=MOST_TOKENS, threshold=SURE)
    await plugin.model.close(step.session)
    text = plugin.codec.text_of(token for token in step.new_ids if token not in plugin.codec.end_ids)
    return (step.weight or 0.0) if _begins_with(text, edit.target_new) else 0.0


def _begins_with(text: str, answer: str) -> bool:
    return re.match(rf"\s*{re.escape(answer.strip())}(?!\w)", text, re.IGNORECASE) is not None
