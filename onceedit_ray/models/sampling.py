"""Chooses one token from a distribution: the most likely one, or one sampled with temperature and top-p.

A draw depends only on the seed, the position and the distribution, not on the number of drafted tokens or on the rest
of the batch. So a drafted answer is, token by token, the answer that would have been sampled without a draft.

Shapes: N entries of a distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # requests are passed on by processes that have no model, and need no PyTorch
    from torch import Tensor

NUCLEUS = 1024
"""Number of largest entries used first for top-p; a flatter distribution is sorted completely."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    temperature: 0 takes the most likely token. top_p: only the most likely tokens that together reach this mass.
    seed: of the random numbers.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature <= 0.0

    def uniform(self, position: int) -> float:
        """The random number for the token at `position` of the sequence, in [0, 1)."""
        return float(np.random.Generator(np.random.Philox(key=self.seed % 2**64, counter=position)).random())


GREEDY = Sampling()


def draw(ids_N: NDArray[np.integer], p_N: NDArray[np.floating], sampling: Sampling, position: int) -> int:
    """One of the tokens `ids_N` with masses `p_N` (any sum above 0), drawn.

    position: the token's position in the sequence.
    """
    logs = np.log(np.maximum(p_N.astype(np.float64), 1e-45))
    tempered = np.exp((logs - logs.max()) / sampling.temperature)
    tempered[p_N <= 0] = 0.0
    return _drawn(ids_N, tempered / tempered.sum(), sampling, position)


def draw_from_logits(logits_V: Tensor, sampling: Sampling, position: int) -> int:
    """A token drawn from a whole vocabulary, logits [V]."""
    scaled_V = logits_V.float() / sampling.temperature
    if sampling.top_p < 1.0:
        total = scaled_V.logsumexp(-1)
        for entries in (min(NUCLEUS, len(scaled_V)), len(scaled_V)):
            top = scaled_V.topk(entries)
            p_N = (top.values - total).exp().double().cpu().numpy()
            if p_N.sum() >= sampling.top_p or entries == len(scaled_V):
                return _drawn(top.indices.cpu().numpy(), p_N, sampling, position)
    p_V = scaled_V.softmax(-1).double().cpu().numpy()
    return _inverse(p_V, sampling.uniform(position))


def _drawn(ids_N: NDArray[np.integer], p_N: NDArray[np.float64], sampling: Sampling, position: int) -> int:
    """A token within the nucleus.

    The probabilities are cumulated in the order of the ids. In the order of the probabilities, two that are equal but
    for rounding would change places from pass to pass, and with them the token that a random number gives.
    """
    if sampling.top_p < 1.0:
        order = np.lexsort((ids_N, -p_N))
        before_N = np.cumsum(p_N[order]) - p_N[order]
        kept = order[: max(int(np.searchsorted(before_N, sampling.top_p, side="left")), 1)]
        ids_N, p_N = ids_N[kept], p_N[kept]
    order = np.argsort(ids_N)
    return int(ids_N[order[_inverse(p_N[order], sampling.uniform(position))]])


def _inverse(p_N: NDArray[np.float64], chance: float) -> int:
    """The inverse of the cumulated distribution at `chance`."""
    sums_N = np.cumsum(p_N)
    return min(int(np.searchsorted(sums_N, chance * sums_N[-1], side="right")), len(p_N) - 1)
