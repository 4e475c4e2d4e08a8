"""`in_context`: the edits that a request may be about are put before it, as a user would do. This is IKE without its
demonstrations (Zheng et al. 2023, https://arxiv.org/abs/2305.12740).

The edits are those that the fact index finds in the request, as for the plug-in; no gate judges them. The target reads
them in every request about one of their subjects, so a request that asks for something else is changed, too. There is
no fusion and no plug-in.
"""

from __future__ import annotations

from onceedit_ray.fusion.strategies import STRATEGIES, InPrompt
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt

MOST_EDITS = 4


@STRATEGIES.register("in_context")
class InContext(InPrompt):
    """Puts the edits that the index finds into the prompt."""

    def chosen(self, edits: FactsAt, request: str) -> dict[str, Edit]:
        return {found.id: found.edit for found in edits.find(request, MOST_EDITS)}
