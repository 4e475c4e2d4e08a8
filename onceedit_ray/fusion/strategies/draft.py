"""`draft`: fusion over drafted text, the default (algorithm.md §3.4-3.6, §4).

    r̄ = w·(P(t*)·1_t* + (p_s - covered)·R_s) + (1-w)·p_l          eq. 8, with coordinates for private tokens
    choice = argmax r̄                                               eq. 9-11 in closed form

t* is the target token that the plug-in's draft re-tokenises to and P(t*) the product of the plug-in probabilities that
cover it; the rest of the plug-in's mass is mapped to the anchors by its calibrated rows R_s. The space is spanned by
the target's own tokens, which include the anchors: a token private to the target has its own coordinate, so with w = 0
the choice is the target's own. The closed form of the search is then the identity: an anchor's coordinate maps to that
anchor.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.strategies import STRATEGIES, Fused, Pair, Strategy


@STRATEGIES.register("draft")
class Draft(Strategy):
    """Fuses one target position with the draft's proposal for it."""

    drafts: ClassVar[bool] = True
    gated: ClassVar[bool] = True

    def __init__(self, pair: Pair) -> None:
        self._target = pair.target
        self._rows = pair.alignment.plugin_rows
        self._anchor_ids_A = pair.alignment.anchors.target_ids_A.numpy()

    def fuse(self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> Fused:
        proposal = reading.proposal
        if proposal is None:
            raise ValueError("draft fuses readings with a proposal only")
        covered_K = np.array([proposal.covered.get(int(token), 0.0) for token in reading.ids_K], np.float32)
        rest_K = np.maximum(reading.p_K - covered_K, 0.0)
        if reading.suffixes is None:
            columns_KE, mass_KE = self._rows.rows(torch.tensor(reading.ids_K, dtype=torch.long))
            rest_ids = self._anchor_ids_A[columns_KE.numpy()].ravel()
            rest = (rest_K[:, None] * mass_KE.numpy()).ravel()
        else:
            firsts = [self._target.first_token(suffix) for suffix in reading.suffixes]
            written_K = np.array([first is not None for first in firsts], np.bool_)
            rest_ids = np.array([first for first in firsts if first is not None], np.int64)
            rest = rest_K[written_K]
        ids = np.concatenate([ids_K, [proposal.token], rest_ids])
        mass = np.concatenate([(1.0 - weight) * p_K, [weight * proposal.probability], weight * rest])
        tokens, where = np.unique(ids, return_inverse=True)
        return Fused(tokens, np.bincount(where, weights=mass).astype(np.float64))
