"""ROME: the edited layer maps k* to v* and leaves what is orthogonal to C⁻¹ k*."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from onceedit_ray.baselines.closed_form import factor, rank_one
from onceedit_ray.baselines.context_templates import context_prefixes
from onceedit_ray.baselines.methods import rome as rome_module
from onceedit_ray.baselines.methods.rome import Rome, RomeSettings
from onceedit_ray.baselines.mlps import find_mlps
from onceedit_ray.baselines.target_value import keys_of, locate
from onceedit_ray.progress import Count
from tests.baseline_models import EDITS, Small, changed, parameters, prepared

SETTINGS = RomeSettings(depth=0.0, prefixes=((3, 2),), steps=8, decay=1e-3)


def test_the_rank_one_update_by_hand() -> None:
    C_FF = torch.diag(torch.tensor([1.0, 4.0]))
    # C⁻¹ k = (2, 1), (C⁻¹ k)ᵀ k = 4 + 4 = 8.
    update_DF = rank_one(factor(C_FF, torch.device("cpu")), torch.tensor([2.0, 4.0]), torch.tensor([8.0, -16.0]))
    expected = torch.tensor([[2.0, 1.0], [-4.0, -2.0]], dtype=torch.float64)
    torch.testing.assert_close(update_DF, expected, rtol=1e-5, atol=1e-5)


def test_k_is_mapped_to_v_and_what_is_orthogonal_stays(
    given: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = given.model, given.tokenizer
    method = prepared(Rome(SETTINGS), given, tmp_path)
    mlp = find_mlps(model)[0]
    before_DF = mlp.matrix_DF.detach().clone()
    located = locate(model, tokenizer, EDITS[0], context_prefixes(model, tokenizer, SETTINGS.prefixes, 0))
    k_F = keys_of(model, mlp, located).mean(0)
    delta_D = torch.linspace(-1, 1, len(before_DF))
    monkeypatch.setattr(rome_module, "target_shift", lambda *_: delta_D)

    before = parameters(model)
    edited = method.edit(model, tokenizer, EDITS[:1], [].append)
    after_DF = mlp.matrix_DF.detach().clone()
    assert changed(model, before) == {mlp.weight_path}
    edited.undo()

    v_D = before_DF @ k_F + delta_D
    torch.testing.assert_close(after_DF @ k_F, v_D, rtol=1e-4, atol=1e-4)
    C_FF = moment(tmp_path)
    u_F = torch.linalg.solve(C_FF.double() + 1e-6 * C_FF.diagonal().mean() * torch.eye(len(C_FF)), k_F.double())
    other_F = torch.randn(len(u_F), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    other_F -= u_F * (other_F @ u_F) / (u_F @ u_F)
    step_D = (after_DF - before_DF).double() @ other_F
    scale = (after_DF - before_DF).double().norm() * other_F.norm()
    assert step_D.norm() < 1e-4 * scale


def moment(cache: Path) -> Tensor:
    (file,) = cache.rglob("*.safetensors")
    return load_file(file)["C_FF"]


def test_edits_follow_one_another(llama: Small, tmp_path: Path) -> None:
    updates: list[str | Count] = []
    prepared(Rome(SETTINGS), llama, tmp_path).edit(llama.model, llama.tokenizer, EDITS, updates.append).undo()
    assert updates == [Count("rome: editing", number, 3) for number in (1, 2, 3)]


def test_published_layers_are_met_on_the_published_depths() -> None:
    published = {"gpt2": (48, 17), "gptj": (28, 5), "llama": (32, 5), "mistral": (32, 5), "qwen2": (28, 5)}
    for family, (layers, layer) in published.items():
        settings = Rome.presets[family]
        assert isinstance(settings, RomeSettings)
        assert round(settings.depth * layers) == layer
