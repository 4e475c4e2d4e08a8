"""`retrieval`: the edits most similar to a request are put before it; below a similarity the target answers alone.

The routing is that of KEDAS (https://arxiv.org/abs/2508.01302): edits are ranked by similarity, a filter drops those
that are not similar enough, and a request with none left is answered by the unedited model. Ours: BM25 with a fixed
lowest similarity (`knowledge.bm25`) in place of their trained retriever and filter, and no adapter that is trained to
follow the context.
"""

from __future__ import annotations

from onceedit_ray.fusion.strategies import STRATEGIES, InPrompt, Pair
from onceedit_ray.knowledge.bm25 import Bm25
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt

MOST_EDITS = 3
SIMILAR = 0.6
"""Lowest similarity. Of the English questions in `data/conversations` it passes nine in ten that ask for an edit, and
four in ten of the near misses."""


@STRATEGIES.register("retrieval")
class Retrieval(InPrompt):
    """Puts the most similar edits into the prompt."""

    def __init__(self, pair: Pair) -> None:
        super().__init__(pair)
        self._ranking: tuple[FactsAt, int, Bm25] | None = None

    def chosen(self, edits: FactsAt, request: str) -> dict[str, Edit]:
        live, ranking = edits.edits(), self._over(edits)
        similar = ranking.most_similar(request, MOST_EDITS)
        return {id: live[id] for id, similarity in similar if similarity >= SIMILAR and id in live}

    def _over(self, edits: FactsAt) -> Bm25:
        """The ranking of the live edits, built again after an edit."""
        known, changes = self._ranking, edits.changes
        if known is None or known[0] is not edits or known[1] != changes:
            known = self._ranking = (edits, changes, Bm25(edits.edits()))
        return known[2]
