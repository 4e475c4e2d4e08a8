"""The norm after an MLP in some families, and the input that it needs to give a wanted change."""

from __future__ import annotations

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from onceedit_ray.baselines.mlps import find_mlps
from onceedit_ray.baselines.post_norm import nearest_direction, norm_after, value_change
from tests.baseline_models import small
from tests.families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_only_gemma_has_a_norm_after_the_mlp(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = small(family, tmp_path_factory.mktemp(family)).model
    found = [norm_after(model, mlp) for mlp in find_mlps(model)]
    if family == "gemma3":
        assert found == [layer.post_feedforward_layernorm for layer in model.model.layers]
    else:
        assert found == [None, None]


def test_without_a_norm_the_change_is_the_wanted_one() -> None:
    r_ND = torch.tensor([[1.0, -2.0]])
    assert torch.equal(value_change(None, torch.zeros(1, 2), r_ND), r_ND)


@torch.no_grad()
def test_through_a_norm_the_wanted_output_comes_out() -> None:
    norm = Gemma3RMSNorm(4)
    norm.weight.copy_(torch.tensor([0.0, 1.0, 0.5, -0.5]))
    m_ND = torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    other_ND = torch.tensor([[-2.0, 1.0, 1.0, 2.0]])
    r_ND = norm(other_ND) - norm(m_ND)  # reachable: what another output would give
    change_ND = value_change(norm, m_ND, r_ND)
    torch.testing.assert_close(norm(m_ND + change_ND), norm(other_ND), rtol=1e-4, atol=1e-4)
    assert float((m_ND + change_ND).norm()) == pytest.approx(float(m_ND.norm()), rel=1e-4)


@torch.no_grad()
def test_out_of_reach_the_nearest_output_is_taken() -> None:
    """The result is compared with the best of many directions; a coordinate whose gain is zero does not change."""
    gain_D = torch.tensor([1.0, 2.0, 0.01])
    wanted_ND = torch.tensor([[3.0, -4.0, 5.0], [0.1, 0.2, 0.1]])
    u_ND = nearest_direction(gain_D, wanted_ND)
    torch.testing.assert_close(u_ND.norm(dim=1), torch.ones(2, dtype=torch.float64))
    tried = torch.nn.functional.normalize(torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    for u_D, wanted_D in zip(u_ND.float(), wanted_ND, strict=True):
        best = (3**0.5 * gain_D * tried - wanted_D).norm(dim=1).min()
        assert (3**0.5 * gain_D * u_D - wanted_D).norm() <= best + 1e-5
    assert u_ND[0, 2].abs() < 0.05
