"""The search of eq. 9-11: the paper's gradient descent ends where the closed form says, and what candidates cost.

Shapes: C candidate tokens, A anchors.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from onceedit_ray.alignment import LiteralMatrix
from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.search import column_argmax, gradient_search
from onceedit_ray.fusion.strategies import STRATEGIES
from onceedit_ray.models.loading import input_embeddings
from tests.paths import FETCHED_HOME

SMOLLM2 = sorted((FETCHED_HOME / "models").glob("smollm2-135m-*"))
needs_weights = pytest.mark.skipif(
    not SMOLLM2, reason=f"no smollm2-135m under {FETCHED_HOME}/models; `onceedit models fetch smollm2-135m` gets it"
)
# What float32 can tell apart among logits of the search's size.
ROUNDING = 1e-6


def random_rows(candidates: int, anchors: int, multiplier: float, seed: int) -> Tensor:
    """A transfer matrix as softmax over random cosines."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(multiplier * torch.randn(candidates, anchors, generator=generator), -1)


def one_hot(anchor: int, anchors: int) -> Tensor:
    """The aim of eq. 11: all mass on one anchor; [A]."""
    return torch.nn.functional.one_hot(torch.tensor(anchor), anchors).float()


def closed_form_holds(R_CA: Tensor, anchor: int) -> bool:
    """Checks where the search ends; False where the winner leads by so little that rounding may hide it."""
    x_C = gradient_search(R_CA, one_hot(anchor, R_CA.shape[1]), torch.zeros(len(R_CA)))
    winner = column_argmax(R_CA, anchor)
    assert x_C[winner] >= x_C.max() - ROUNDING
    second, first = R_CA[:, anchor].sort().values[-2:]
    if first - second < 0.01 * first:
        return False
    assert int(x_C.argmax()) == winner
    return True


class TestClosedForm:
    @pytest.mark.parametrize("multiplier", [1.0, 5.0, 20.0])
    @pytest.mark.parametrize(("candidates", "anchors"), [(20, 10), (60, 40), (400, 150)])
    def test_search_from_zero_ends_at_the_column_argmax(self, candidates: int, anchors: int, multiplier: float) -> None:
        clear = [
            closed_form_holds(random_rows(candidates, anchors, multiplier, seed), anchor)
            for seed in range(4)
            for anchor in range(0, anchors, max(1, anchors // 12))
        ]
        assert sum(clear) > len(clear) / 3

    @pytest.mark.weights
    @needs_weights
    @pytest.mark.parametrize(("multiplier", "l2"), [(100.0, True), (14.7, False)], ids=["literal", "calibrated"])
    def test_on_real_embeddings(self, multiplier: float, l2: bool) -> None:
        E_VD = input_embeddings(SMOLLM2[-1])
        candidates = torch.arange(0, len(E_VD), 12)[:4000]
        anchors = candidates[::4]
        R_CA = LiteralMatrix(E_VD, anchors, multiplier, l2).rows(candidates)
        clear = [closed_form_holds(R_CA, anchor) for anchor in range(0, len(anchors), 16)]
        assert sum(clear) > len(clear) / 3

    def test_hand_made_columns(self) -> None:
        R_CA = torch.tensor([[0.2, 0.8], [0.7, 0.3], [0.7, 0.3], [0.1, 0.9]])
        assert column_argmax(R_CA, 0) == 1  # the lowest on a tie
        assert column_argmax(R_CA, 1) == 3

    def test_onceedit_answers_as_the_search_over_the_whole_vocabulary(self) -> None:
        R_CA = random_rows(80, 30, 4.0, seed=1)
        for seed in range(30):
            draw = np.random.default_rng(seed)
            weight = float(draw.uniform())
            plugin_p, target_p = (torch.from_numpy(draw.dirichlet(np.full(8, 0.3))).float() for _ in range(2))
            plugin_ids, target_ids = (torch.from_numpy(draw.permutation(80)[:8]) for _ in range(2))
            r_A = weight * plugin_p @ R_CA[plugin_ids] + (1 - weight) * target_p @ R_CA[target_ids]
            expected = gradient_search(R_CA, one_hot(int(r_A.argmax()), 30), torch.zeros(80)).argmax()
            fused = strategy("onceedit", R_CA).fuse(
                DraftPosition(plugin_ids.int().numpy(), plugin_p.numpy()),
                target_ids.int().numpy(),
                target_p.numpy(),
                weight,
            )
            assert fused.likeliest == int(expected)


class TestSoftSearch:
    """DEEPEN's: from the target's own distribution towards r̄ itself."""

    @staticmethod
    def loss(R_CA: Tensor, aim_A: Tensor, x_C: Tensor) -> float:
        r_A = torch.softmax(x_C.double(), -1) @ R_CA.double()
        return float((aim_A.double() * (aim_A.double().log() - r_A.log())).sum())

    @pytest.mark.parametrize("seed", range(6))
    def test_comes_closer_to_its_aim(self, seed: int) -> None:
        R_CA = random_rows(50, 20, 2.0, seed)
        generator = torch.Generator().manual_seed(seed)
        start_C = torch.log_softmax(3 * torch.randn(50, generator=generator), -1)
        aim_A = torch.softmax(2 * torch.randn(20, generator=generator), -1)
        losses = [self.loss(R_CA, aim_A, gradient_search(R_CA, aim_A, start_C, steps=n)) for n in (0, 1, 5, 20)]
        assert losses == sorted(losses, reverse=True)
        assert losses[0] - losses[2] > 0.01

    def test_leaves_its_start_alone(self) -> None:
        start_C = torch.zeros(5)
        x_C = gradient_search(random_rows(5, 3, 1.0, 0), one_hot(1, 3), start_C)
        assert start_C.tolist() == [0.0] * 5
        assert not x_C.requires_grad

    def test_an_aim_already_reached_stays_the_choice(self) -> None:
        R_CA = random_rows(12, 6, 3.0, seed=3)
        start_C = torch.log(torch.tensor([0.6, 0.2, 0.2 / 10] + [0.2 / 10] * 9))
        x_C = gradient_search(R_CA, torch.softmax(start_C, -1) @ R_CA, start_C)
        assert int(x_C.argmax()) == 0

    def test_one_adam_step_moves_by_the_rate(self) -> None:
        """A first step of AdamW is the gradient's sign times the rate (weight decay has nothing to decay at zero)."""
        R_CA = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
        x_C = gradient_search(R_CA, one_hot(0, 2), torch.zeros(2), steps=1)
        assert x_C.tolist() == pytest.approx([0.15, -0.15], abs=1e-5)


class TestCandidates:
    """If the dense matrix does not fit into memory, the search runs over candidates."""

    # Anchors 0, 1 and another. Tokens 0 and 1 are each near one of them, 2 lies between, 3 is far from both.
    R_CA = torch.tensor([[0.9, 0.0, 0.1], [0.0, 0.9, 0.1], [0.5, 0.45, 0.05], [0.02, 0.03, 0.95]])

    def test_answer_is_the_whole_vocabularys_if_the_winner_is_among_them(self) -> None:
        for anchor in range(3):
            winner = column_argmax(self.R_CA, anchor)
            for others in ([0, 3], [1, 2], [3]):
                candidates = sorted({winner, *others})
                rows = self.R_CA[candidates]
                assert candidates[column_argmax(rows, anchor)] == winner
                x_C = gradient_search(rows, one_hot(anchor, 3), torch.zeros(len(candidates)))
                assert candidates[int(x_C.argmax())] == winner

    def test_answer_is_another_if_it_is_not(self) -> None:
        assert column_argmax(self.R_CA, 0) == 0
        assert [1, 2, 3][column_argmax(self.R_CA[[1, 2, 3]], 0)] == 2

    @pytest.mark.parametrize("seed", range(8))
    def test_deepen_over_its_candidates_is_deepen_over_everything(self, seed: int) -> None:
        """All of the target's mass and the winners of the likely anchors are among the candidates."""
        R_CA = random_rows(60, 25, 4.0, seed)
        draw = np.random.default_rng(seed)
        ids_K = draw.permutation(60)[:10].astype(np.int32)
        p_K = np.sort(draw.dirichlet(np.full(10, 0.5)))[::-1].astype(np.float32)
        reading = DraftPosition(draw.permutation(60)[:10].astype(np.int32), p_K)
        fused = strategy("deepen+dw", R_CA)
        rest = np.setdiff1d(np.arange(60), ids_K).astype(np.int32)
        everything = np.concatenate([ids_K, rest])
        p_V = np.concatenate([p_K, np.full(50, p_K.min() * 1e-3, np.float32)])
        for weight in (0.1, 0.5, 0.9):
            restricted = fused.fuse(reading, ids_K, p_K, weight).likeliest
            assert restricted == fused.fuse(reading, everything, p_V, weight).likeliest

    def test_deepen_misses_a_winner_that_is_no_candidate(self) -> None:
        """Token 2 fits an aim between two anchors best; it is no column's winner, and not among the target's top-k."""
        fused = strategy("deepen+dw", self.R_CA)
        reading = DraftPosition(np.array([0, 1], np.int32), np.array([0.5, 0.5], np.float32))
        p_V = np.array([0.24, 0.24, 0.28, 0.24], np.float32)
        whole = np.array([2, 0, 1, 3], np.int32)
        assert fused.fuse(reading, whole, np.sort(p_V)[::-1].copy(), 0.95).likeliest == 2
        assert fused.fuse(reading, whole[1:3], p_V[:2], 0.95).likeliest in (0, 1)


def strategy(name: str, R_CA: Tensor) -> Any:
    """A literal strategy whose plug-in and target share one hand-made matrix."""
    matrix = SimpleNamespace(rows=lambda ids: R_CA[ids])
    winners_A = torch.tensor([column_argmax(R_CA, anchor) for anchor in range(R_CA.shape[1])])
    alignment = SimpleNamespace(plugin_literal=matrix, target_literal=matrix, literal_winners_A=winners_A)
    pair: Any = SimpleNamespace(alignment=alignment)
    return STRATEGIES.get(name)(pair)
