"""`deepen`, `deepen+dw`, `onceedit`: the paper's own fusion and its ablations, on the literal matrix (eq. 8-11, 15-16).

| strategy    | weight        | search starts at    | aim           |
|-------------|---------------|---------------------|---------------|
| `deepen`    | fixed         | the target's own p  | r̄             |
| `deepen+dw` | the gate's w  | the target's own p  | r̄             |
| `onceedit`  | the gate's w  | zero                | onehot(argmax r̄) |

A dense literal matrix of a large vocabulary does not fit into memory, so r̄ mixes the rows of each model's most likely
tokens, and the search runs over candidates: the target's most likely tokens and the column winners of r̄'s largest
anchors. `onceedit` ends at the column winner over the whole vocabulary, its search in closed form. These strategies
always fuse: the paper has no threshold.

Shapes: K entries kept of a distribution, C candidates, A anchors.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onceedit_ray.alignment import LiteralMatrix
from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.search import gradient_search
from onceedit_ray.fusion.strategies import STRATEGIES, Fused, Pair, Strategy, answered


class _Literal(Strategy):
    restriction: ClassVar[str] = "r̄ mixes the rows of each model's top-k tokens only"

    def __init__(self, pair: Pair) -> None:
        self._alignment = pair.alignment

    def relative(
        self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float
    ) -> Tensor:
        """r̄ of eq. 8 over the anchors, float32 [A]."""
        r_A = weight * (torch.tensor(reading.p_K) @ _rows(self._alignment.plugin_literal, reading.ids_K))
        return r_A + (1.0 - weight) * (torch.tensor(p_K) @ _rows(self._alignment.target_literal, ids_K))


@STRATEGIES.register("onceedit")
class OnceEditFusion(_Literal):
    """Zero start, one-hot aim: the column winner of the largest anchor."""

    def fuse(self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> Fused:
        r_A = self.relative(reading, ids_K, p_K, weight)
        return answered(r_A, self._alignment.literal_winners_A)


@STRATEGIES.register("deepen+dw")
class DeepenDynamicWeight(_Literal):
    """The target's own start, the fused distribution as aim, the gate's weight."""

    restriction: ClassVar[str] = (
        "r̄ mixes the rows of each model's top-k tokens, and the search runs over the target's top-k tokens and the "
        "column winners of as many anchors"
    )

    def fuse(self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> Fused:
        r_A = self.relative(reading, ids_K, p_K, weight)
        winners = self._alignment.literal_winners_A[r_A.topk(min(len(ids_K), len(r_A))).indices]
        extra = np.setdiff1d(np.asarray(winners), ids_K)
        candidates = np.concatenate([ids_K, extra]).astype(np.int64)
        floor = float(np.log(p_K.min() + 1e-12))  # tokens outside the top-k are at most as likely as its last one
        start_C = torch.from_numpy(np.concatenate([np.log(p_K + 1e-12), np.full(len(extra), floor)])).float()
        x_C = gradient_search(_rows(self._alignment.target_literal, candidates), r_A, start_C)
        return Fused(candidates, torch.softmax(x_C, -1).numpy())


@STRATEGIES.register("deepen")
class Deepen(DeepenDynamicWeight):
    """DEEPEN: as above with one weight for every request."""

    fixed_weight: ClassVar[float | None] = 0.5


def _rows(matrix: LiteralMatrix, ids_N: NDArray[np.integer]) -> Tensor:
    return matrix.rows(torch.tensor(ids_N, dtype=torch.long))
