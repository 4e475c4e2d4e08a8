"""`deck`: the target with the edits in its prompt, contrasted with the same target without them (Bi et al. 2024,
https://arxiv.org/abs/2405.11613, "DeCK").

    V = {x : p_with(x) ≥ α · max p_with}                 the plausible tokens, α = 0.1
    F(x) = log p_with(x) - log p_without(x) if x ∈ V,  else -∞
    x = argmax F;   p = softmax(F)                       sampling draws from p

α is that of the authors' code. The edits are those of `in_context`. Left out: the paper's enhancement of tokens that
resemble the edit's words ("deck_pro" in the code), which needs the target's embeddings.

Shapes: K entries kept of a distribution.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.strategies import STRATEGIES, Fused
from onceedit_ray.fusion.strategies.in_context import InContext

PLAUSIBLE = 0.1
"""α."""


@STRATEGIES.register("deck")
class Deck(InContext):
    """Chooses, among the tokens that are plausible with the edits, the one that they raise most."""

    contrasts: ClassVar[bool] = True
    restriction: ClassVar[str] = (
        "a token outside the top-k tokens without the edits counts with the probability of the last of these"
    )

    def fuse(self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> Fused:
        kept = reading.p_K >= PLAUSIBLE * reading.p_K.max()
        tokens, with_edits = reading.ids_K[kept], reading.p_K[kept].astype(np.float64)
        without = dict(zip(ids_K.tolist(), p_K.tolist(), strict=True))
        lowest = float(p_K.min())
        ratio = with_edits / np.maximum([without.get(token, lowest) for token in tokens.tolist()], 1e-12)
        return Fused(tokens, ratio / ratio.sum())
