"""MEMIT: the closed form solves its normal equations, every layer gets its share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from onceedit_ray.baselines.closed_form import least_squares
from onceedit_ray.baselines.context_templates import context_prefixes
from onceedit_ray.baselines.methods import memit as memit_module
from onceedit_ray.baselines.methods.memit import Memit, MemitSettings, edit_key
from onceedit_ray.baselines.mlps import find_mlps
from onceedit_ray.baselines.target_value import bare_output, locate
from tests.baseline_models import EDITS, Small, changed, parameters, prepared

SETTINGS = MemitSettings(depths=(0.0, 0.5), prefixes=((3, 1),), steps=8, ordinary=0.01, decay=1e-3)


def test_the_closed_form_solves_its_normal_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    root_FF = torch.randn(6, 6, generator=generator)
    C_FF, weight = root_FF @ root_FF.T, 3.0
    K_FN, R_DN = torch.randn(6, 4, generator=generator), torch.randn(5, 4, generator=generator)
    update_DF = least_squares(C_FF, weight, K_FN, R_DN)
    left = update_DF @ (weight * C_FF + K_FN @ K_FN.T).double()
    torch.testing.assert_close(left, (R_DN @ K_FN.T).double(), rtol=1e-3, atol=1e-3)


def test_the_closed_form_by_hand() -> None:
    # One key k = (1, 2), λ C = diag(1, 4): (λC + k kᵀ)⁻¹ k = (λC)⁻¹ k / (1 + kᵀ (λC)⁻¹ k) = (1, 1/2) / 3.
    update_DF = least_squares(
        torch.diag(torch.tensor([0.5, 2.0])), 2.0, torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [-6.0]])
    )
    expected = torch.tensor([[1.0, 0.5], [-2.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(update_DF, expected, rtol=1e-5, atol=1e-5)


def test_the_update_of_a_layer_solves_its_normal_equations_in_the_model(llama: Small, tmp_path: Path) -> None:
    """A single layer makes the whole change: Δ (λ C + K Kᵀ) = (Z - H) Kᵀ."""
    model, tokenizer = llama.model, llama.tokenizer
    settings = SETTINGS.model_copy(update={"depths": (0.0,)})
    mlp = find_mlps(model)[0]
    prefixes = context_prefixes(model, tokenizer, settings.prefixes, settings.seed)
    located = [locate(model, tokenizer, edit, prefixes) for edit in EDITS]
    K_FN = torch.stack([edit_key(model, mlp, each) for each in located], 1).double()
    before_DF = mlp.matrix_DF.detach().clone()
    wanted: list[Tensor] = []
    method = prepared(Memit(settings), llama, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memit_module, "target_shift", lambda *_: wanted.append(torch.randn(48)) or wanted[-1])
        edited = method.edit(model, tokenizer, EDITS, [].append)
    update_DF = (mlp.matrix_DF.detach() - before_DF).double()
    edited.undo()
    (file,) = tmp_path.rglob("*.safetensors")
    C_FF = load_file(file)["C_FF"].double()
    left = update_DF @ (settings.ordinary * len(C_FF) * C_FF + K_FN @ K_FN.T)
    right = torch.stack(wanted, 1).double() @ K_FN.T
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))


def test_every_layer_gets_its_share(given: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys that weigh all (λ → 0), each of n layers makes up 1/n, 1/(n-1) … 1 of what is still missing."""
    model, tokenizer = given.model, given.tokenizer
    settings = SETTINGS.model_copy(update={"ordinary": 1e-7, "prefixes": ()})
    asked: list[tuple[int, Tensor]] = []
    own = Memit._update

    def watched(self: Memit, model, mlp, located, r_ND):  # type: ignore[no-untyped-def]
        asked.append((mlp.layer, r_ND))
        return own(self, model, mlp, located, r_ND)

    monkeypatch.setattr(Memit, "_update", watched)
    mlps = find_mlps(model)
    last = model.get_submodule(mlps[-1].layer_path)
    located = [locate(model, tokenizer, edit, [""]) for edit in EDITS]
    shift_D = torch.linspace(-0.1, 0.1, len(mlps[0].matrix_DF))
    wanted_ND = torch.stack([bare_output(model, last, each) + shift_D for each in located])
    monkeypatch.setattr(memit_module, "target_shift", lambda *_: shift_D)
    before = parameters(model)
    edited = prepared(Memit(settings), given, tmp_path).edit(model, tokenizer, EDITS, [].append)
    reached_ND = torch.stack([bare_output(model, last, each) for each in located])
    names = changed(model, before)
    edited.undo()

    assert names == {mlp.weight_path for mlp in mlps}
    assert [layer for layer, _ in asked] == [0, 1]
    torch.testing.assert_close(asked[0][1], shift_D.expand(3, -1) / 2, rtol=1e-4, atol=1e-5)
    missing = shift_D.norm()
    assert (wanted_ND - reached_ND).norm(dim=1).max() < 0.15 * missing  # exact but for a norm after the MLP
    assert not changed(model, before)


def test_published_layers_and_weights_are_met_on_the_published_models() -> None:
    published = {
        "gpt2": (48, range(13, 18), 6_400, 20_000),
        "gptj": (28, range(3, 9), 16_384, 15_000),
        "llama": (32, range(4, 9), 11_008, 15_000),
        "mistral": (32, range(4, 9), 14_336, 15_000),
        "qwen2": (28, range(4, 9), 18_944, 15_000),
    }
    for family, (layers, wanted, width, weight) in published.items():
        settings = Memit.presets[family]
        assert isinstance(settings, MemitSettings)
        assert [round(depth * layers) for depth in settings.depths] == list(wanted)
        assert settings.ordinary * width == pytest.approx(weight)
