"""`unite`: the union of both models' top tokens (Yao et al. 2024, https://arxiv.org/abs/2410.03777, "UniTE").

    V_u    = V_s^k ∪ V_l^k                                 the k likeliest tokens of each model, by their text; k = 10
    p̂_j(u) = p_j(u)                  where u is in V_j
             p_j(first token of u)   otherwise, with the text of u tokenised by model j                     u ∈ V_u
    q(u)   = Σ_j λ_j softmax_{V_u}(log p̂_j)(u),            x = argmax_u q(u)

The softmax over logits of the union is p̂ divided by its sum there. Two models weigh λ = 1/2 each in the paper; ours:
λ_s = w, the gate's weight, λ_l = 1 - w. Text is compared as bytes. A token outside the top-k that a model sends has p̂
= 0 here, where the paper looks it up in the whole distribution. x maps to the target's token of the same text, or, as
in the paper, to the first of the target's tokens for it. (The authors' code gives some models' repeated first tokens a
logit of 0; this file follows the paper's rule.) No drafts and no gate: every position of every request is fused.

Shapes: K entries kept of a distribution, U tokens of the union.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.strategies import STRATEGIES, Fused, Pair, Strategy, loudest
from onceedit_ray.fusion.token_translation import TokenTranslation

TOP = 10
"""k: the paper's choice."""


@STRATEGIES.register("unite")
class Unite(Strategy):
    """Mixes both models over the texts that at least one of them finds likely."""

    restriction: ClassVar[str] = "a token of the union outside a model's top-k tokens has no probability there"

    def __init__(self, pair: Pair) -> None:
        anchors = pair.alignment.anchors
        self._to_target = TokenTranslation(pair.plugin, pair.target, anchors.plugin_ids_A, anchors.target_ids_A)
        self._to_plugin = TokenTranslation(pair.target, pair.plugin, anchors.target_ids_A, anchors.plugin_ids_A)

    def fuse(self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> Fused:
        p_plugin = dict(zip(reading.ids_K.tolist(), reading.p_K.tolist(), strict=True))
        p_target = dict(zip(ids_K.tolist(), p_K.tolist(), strict=True))
        # A text as both models' tokens for it, the target's first: (answer, plug-in token).
        union = {token: self._to_plugin.first(token) for token in list(p_target)[:TOP]}
        private: list[tuple[int, int]] = []
        shared: dict[int, int] = {}
        for token in list(p_plugin)[:TOP]:
            same, first = self._to_target.same(token), self._to_target.first(token)
            if same is not None:
                shared.setdefault(same, token)  # of several end-of-text tokens the likeliest
            elif first is not None:
                private.append((first, token))
        union |= shared
        texts = [*union.items(), *private]
        plugin_U = np.array([p_plugin.get(theirs, 0.0) if theirs is not None else 0.0 for _, theirs in texts])
        target_U = np.array([p_target.get(ours, 0.0) for ours, _ in texts])
        mass_U = weight * _shares(plugin_U) + (1.0 - weight) * _shares(target_U)
        return loudest(np.array([ours for ours, _ in texts]), mass_U)


def _shares(p_U: NDArray[np.floating]) -> NDArray[np.floating]:
    total = p_U.sum()
    return p_U / total if total else p_U
