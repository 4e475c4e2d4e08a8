"""`calibrated`: token-level fusion in a calibrated relative space (algorithm.md §3.2).

r̄ = w·(p_s·R_s) + (1-w)·(p_l·R_l)      eq. 8, centred, calibrated, sparse matrices
choice = argmax_j R_l[j, argmax r̄]      eq. 9-11 in closed form
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.strategies import STRATEGIES, Fused, Pair, Strategy, answered


@STRATEGIES.register("calibrated")
class Calibrated(Strategy):
    """Fuses single tokens over sparse rows."""

    gated: ClassVar[bool] = True

    def __init__(self, pair: Pair) -> None:
        self._plugin_rows = pair.alignment.plugin_rows
        self._target_rows = pair.alignment.target_rows
        self._winner_A = pair.alignment.target_winners_A

    def fuse(self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> Fused:
        r_A = weight * self._plugin_rows.mix(*_tensors(reading.ids_K, reading.p_K))
        r_A += (1.0 - weight) * self._target_rows.mix(*_tensors(ids_K, p_K))
        return answered(r_A, self._winner_A)


def _tensors(ids_K: NDArray[np.int32], p_K: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    return torch.tensor(ids_K, dtype=torch.long), torch.tensor(p_K)
