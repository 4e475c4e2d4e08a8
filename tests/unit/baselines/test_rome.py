"""ROME: the edited layer maps k* to v* and leaves what is orthogonal to C⁻¹ k*; undo and load are exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from onceedit_ray.baselines import BASELINES, BaselineSettings, preset
from onceedit_ray.baselines.closed_form import factor, rank_one
from onceedit_ray.baselines.context_templates import context_prefixes
from onceedit_ray.baselines.methods import rome as rome_module
from onceedit_ray.baselines.methods.rome import Rome, RomeSettings
from onceedit_ray.baselines.mlps import find_mlps
from onceedit_ray.baselines.target_value import keys_of, locate
from onceedit_ray.baselines.teacher_forcing import answer_batch, answer_loss
from onceedit_ray.errors import ConfigError, DataError, ModelError
from onceedit_ray.progress import Count
from tests.baseline_models import (
    EDITS,
    Small,
    changed,
    every_family,
    material,
    mixture_of_experts,
    one_llama,
    parameters,
    prepared,
    small,
)

SETTINGS = RomeSettings(depth=0.0, prefixes=((3, 2),), steps=8, decay=1e-3)

given, llama = every_family, one_llama


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

    edited = method.edit(model, tokenizer, EDITS[:1], [].append)
    after_DF = mlp.matrix_DF.detach().clone()
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


def test_the_answer_becomes_likelier_and_only_one_weight_changes(given: Small, tmp_path: Path) -> None:
    model, tokenizer = given.model, given.tokenizer
    method = prepared(Rome(SETTINGS.model_copy(update={"prefixes": (), "steps": 25, "clamp": 10.0})), given, tmp_path)
    before = parameters(model)
    batch = answer_batch(tokenizer, [(EDITS[0].prompt, EDITS[0].target_new)], "cpu")
    with torch.no_grad():
        own = answer_loss(model, batch).item()
        edited = method.edit(model, tokenizer, EDITS[:1], [].append)
        now = answer_loss(model, batch).item()
    names = changed(model, before)
    edited.undo()
    assert now < own - 0.5
    assert names == {find_mlps(model)[0].weight_path}
    assert not changed(model, before)


def test_edits_follow_one_another_and_load_again_to_the_bit(given: Small, tmp_path: Path) -> None:
    method = prepared(Rome(SETTINGS), given, tmp_path)
    before = parameters(given.model)
    updates: list[str | Count] = []
    edited = method.edit(given.model, given.tokenizer, EDITS, updates.append)
    after = parameters(given.model)
    edited.save(tmp_path / "edit")
    edited.undo()
    assert not changed(given.model, before)
    assert updates == [Count("rome: editing", number, 3) for number in (1, 2, 3)]
    fresh = given.again()
    loaded = method.load(fresh, given.tokenizer, tmp_path / "edit")
    assert not changed(fresh, after)
    assert loaded.settings == SETTINGS.model_dump(mode="json")
    loaded.undo()
    assert not changed(fresh, before)


def test_the_same_seed_makes_the_same_edit(llama: Small, tmp_path: Path) -> None:
    method = prepared(Rome(SETTINGS), llama, tmp_path)
    results = []
    for _ in range(2):
        edited = method.edit(llama.model, llama.tokenizer, EDITS[:1], [].append)
        results.append(parameters(llama.model))
        edited.undo()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_published_layers_are_met_on_the_published_depths() -> None:
    published = {"gpt2": (48, 17), "gptj": (28, 5), "llama": (32, 5), "mistral": (32, 5), "qwen2": (28, 5)}
    for family, (layers, layer) in published.items():
        settings = Rome.presets[family]
        assert isinstance(settings, RomeSettings)
        assert round(settings.depth * layers) == layer


def test_it_is_found_by_name_with_the_default_settings_for_a_small_model(llama: Small) -> None:
    assert BASELINES.get("rome") is Rome
    assert preset("rome", llama.model) is Rome.presets["default"]


def test_wrong_use_is_one_clear_line(llama: Small, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no MLP with one output projection"):
        Rome(SETTINGS).check(mixture_of_experts())
    with pytest.raises(ModelError, match="call `prepare` before `edit`"):
        Rome(SETTINGS).edit(llama.model, llama.tokenizer, EDITS, [].append)
    with pytest.raises(DataError, match="no corpus"):
        Rome(SETTINGS).prepare(llama.model, llama.tokenizer, material(tmp_path, []), [].append)
    with pytest.raises(ConfigError, match="give it RomeSettings"):
        Rome(BaselineSettings())
    edited = prepared(Rome(SETTINGS), llama, tmp_path).edit(llama.model, llama.tokenizer, EDITS[:1], [].append)
    edited.editor = "memit"
    edited.save(tmp_path / "edit")
    edited.undo()
    with pytest.raises(ModelError, match="by 'memit', not by 'rome'"):
        Rome(SETTINGS).load(llama.model, llama.tokenizer, tmp_path / "edit")


@pytest.mark.parametrize(
    ("family", "reason"),
    [("mistral", "must match"), ("gpt2", "has no attribute")],  # another shape; another name
)
def test_an_edit_of_another_model_is_refused_and_nothing_stays(
    llama: Small, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, family: str, reason: str
) -> None:
    edited = prepared(Rome(SETTINGS), llama, tmp_path).edit(llama.model, llama.tokenizer, EDITS[:1], [].append)
    edited.save(tmp_path / "edit")
    edited.undo()
    other = small(family, tmp_path_factory.mktemp(family))
    before = parameters(other.model)
    with pytest.raises(ModelError, match=rf"does not fit .*{reason}.*; load it on the model it was made on"):
        Rome(SETTINGS).load(other.model, other.tokenizer, tmp_path / "edit")
    assert not changed(other.model, before)
