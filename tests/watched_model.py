"""A model with sessions beside the network under it, to compare the one with whole passes of the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onceedit_ray.models.loading import load_model
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.protocol import Step, Top
from tests.small_system import full_logits, sharpen

TOP_K = 20


@dataclass
class Watched:
    """A model with sessions, the network under it, and how many tokens its forward passes have read."""

    model: LocalModel
    network: Any
    passes: list[int] = field(default_factory=list)

    def expected(self, ids: list[int], rows: int) -> np.ndarray:
        """Probabilities of the last `rows` positions from one pass without a cache, [N, V]."""
        read = list(self.passes)
        p_NV = torch.softmax(full_logits(self.network, ids)[-rows:].double(), -1).numpy()
        self.passes[:] = read
        return p_NV


def watch(folder: Path, **options: Any) -> Watched:
    network: Any = load_model(folder, dtype="float32", device="cpu")
    sharpen(network, 2.0)
    made = Watched(LocalModel(network, end_ids=(), top_k=TOP_K, **options), network)
    network.register_forward_pre_hook(lambda _, args: made.passes.append(args[0].shape[1]))
    return made


def assert_top(top: Top, p_NV: np.ndarray) -> None:
    """The likeliest entries of each row of `p_NV`, most likely first, to 1e-5."""
    assert len(top) == len(p_NV)
    assert top.ids_NK.shape == top.p_NK.shape == (len(p_NV), min(TOP_K, p_NV.shape[1]))
    assert (top.ids_NK.dtype, top.p_NK.dtype) == (np.int32, np.float32)
    for ids_K, p_K, p_V in zip(top.ids_NK, top.p_NK, p_NV, strict=True):
        assert len(set(ids_K.tolist())) == len(ids_K)
        np.testing.assert_allclose(p_K, np.sort(p_V)[::-1][: len(p_K)], atol=1e-5)
        np.testing.assert_allclose(p_K, p_V[ids_K], atol=1e-5)


def check_decoded(w: Watched, held: list[int], step: Step, rows: int, decode: int) -> None:
    """`held` was fed when decoding began: rows of its last positions, then one for each further token fed."""
    assert len(step.new_ids) == decode
    fed = [*held, *step.new_ids[:-1]]
    p_NV = w.expected(fed, max(rows, 1) + max(decode - 1, 0))
    if rows:
        assert_top(step.top, p_NV)
    else:
        assert len(step.top) == 0
    for p_V, token in zip(p_NV[max(rows, 1) - 1 :], step.new_ids, strict=False):
        assert p_V[token] >= p_V.max() - 1e-6
