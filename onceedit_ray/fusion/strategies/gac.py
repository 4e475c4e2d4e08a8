"""`gac`: the union of both vocabularies (Yu et al. 2024, https://arxiv.org/abs/2406.12585, "GaC").

    V_u  = V_s ∪ V_l                 by the tokens' text
    q(u) = Σ_i α_i p_i(u)            p_i(u) = 0 where u is not in V_i;   Σ_i α_i = 1
    x    = argmax_u q(u),            x's text is written, and every model reads it in its own tokens

The paper leaves the models' weights α free, with equal weights as the default. Ours: α_s = w, the gate's weight, α_l =
1 - w; text is compared as bytes; a token x that is private to the plug-in maps to the first target token of its text,
and the next steps decide the rest (the paper writes all of it). Left out: their threshold below which other models are
not asked. The paper has no drafts and no gate: every position of every request is fused.

Shapes: K entries kept of a distribution, U coordinates of the union.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.strategies import STRATEGIES, Fused, Pair, Strategy, loudest
from onceedit_ray.fusion.token_translation import TokenTranslation


@STRATEGIES.register("gac")
class Gac(Strategy):
    """Adds the probabilities that both models give a text; a text that is a token of only one model counts once."""

    restriction: ClassVar[str] = "the sum runs over each model's top-k tokens only"

    def __init__(self, pair: Pair) -> None:
        anchors = pair.alignment.anchors
        self._words = TokenTranslation(pair.plugin, pair.target, anchors.plugin_ids_A, anchors.target_ids_A)

    def fuse(self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> Fused:
        common: dict[int, float] = dict(zip(ids_K.tolist(), ((1.0 - weight) * p_K).tolist(), strict=True))
        private: list[tuple[int, float]] = []
        for token, p in zip(reading.ids_K.tolist(), reading.p_K.tolist(), strict=True):
            same, first = self._words.same(token), self._words.first(token)
            if same is not None:
                common[same] = common.get(same, 0.0) + weight * p
            elif first is not None:
                private.append((first, weight * p))
        union = [*common.items(), *private]
        return loudest(np.array([token for token, _ in union]), np.array([mass for _, mass in union]))
