"""`eva`: a learnt alignment of tokens (Xu et al. 2024, https://arxiv.org/abs/2404.09492, "EVA").

    q_s = p_s W                        W maps the plug-in's tokens to the target's: see `alignment.token_map`
    q_l = p_l                          both p are softmaxed over the model's top tokens
    q   = Σ_{i ∈ kept} α_i q_i,        x = argmax q
    kept: the models whose likeliest token is among the n likeliest of another; all, if there is none

The paper's α are equal among the kept models. Ours: w, the gate's weight, and 1 - w, scaled to sum to 1 among the
kept; top tokens are the top-k that a model sends (320 there); n = 5 as in the authors' code, which their tables vary;
of special tokens only the end of text is mapped, to the end of text. The target's vocabulary is the space, as theirs
is that of one of the models. No drafts and no gate: every position of every request is fused.

Shapes: K entries kept of a distribution, J entries of a row of W.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.strategies import STRATEGIES, Fused, Pair, Strategy

FAITHFUL = 5
"""n: a model's likeliest token must be among the n likeliest tokens of the other model."""


@STRATEGIES.register("eva")
class Eva(Strategy):
    """Maps the plug-in's tokens by W, and leaves out a model whose likeliest token the other ranks low."""

    restriction: ClassVar[str] = "both distributions are cut to the top-k tokens that a model sends"

    def __init__(self, pair: Pair) -> None:
        token_map = pair.alignment.token_map
        self._columns_SJ, self._score_SJ = token_map.columns_SK.numpy(), token_map.score_SK.numpy()

    def fuse(self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> Fused:
        scores_KJ = self._score_SJ[reading.ids_K] * (reading.p_K / reading.p_K.sum())[:, None]
        columns_N, where_N = np.unique(self._columns_SJ[reading.ids_K], return_inverse=True)
        mapped_N = np.bincount(where_N.ravel(), weights=scores_KJ.ravel()).astype(np.float64)
        columns_N, mapped_N = columns_N[mapped_N > 0], mapped_N[mapped_N > 0]
        own_K = p_K / p_K.sum()
        plugin_share, target_share = _shares(columns_N, mapped_N, ids_K, own_K, weight)
        tokens, where = np.unique(np.concatenate([columns_N, ids_K]), return_inverse=True)
        mass = np.concatenate([plugin_share * mapped_N, target_share * own_K])
        return Fused(tokens, np.bincount(where, weights=mass).astype(np.float64))


def _shares(
    columns_N: NDArray[np.integer],
    mapped_N: NDArray[np.floating],
    ids_K: NDArray[np.integer],
    own_K: NDArray[np.floating],
    weight: float,
) -> tuple[float, float]:
    """The weights of the plug-in's and the target's distributions, with 0 for a model that is left out."""
    plugin, target = _likeliest(columns_N, mapped_N), _likeliest(ids_K, own_K)
    if not plugin:
        return 0.0, 1.0
    borne_out = plugin[0] in target, target[0] in plugin
    if borne_out[0] == borne_out[1]:
        return weight, 1.0 - weight
    return float(borne_out[0]), float(borne_out[1])


def _likeliest(ids_N: NDArray[np.integer], p_N: NDArray[np.floating]) -> list[int]:
    """The `FAITHFUL` likeliest tokens, most likely first."""
    return [int(token) for token in ids_N[np.argsort(-p_N, kind="stable")[:FAITHFUL]]]
