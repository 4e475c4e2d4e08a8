"""Baselines on models that arrange or scale their layers in other ways than the small families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from onceedit_ray.baselines import BASELINES, Baseline, Material, preset
from onceedit_ray.baselines.cached_prefix import CachedPrefix
from onceedit_ray.baselines.methods.memit import MemitSettings
from onceedit_ray.baselines.mlps import find_mlps
from onceedit_ray.baselines.post_norm import norm_after, residual_factor, value_change
from onceedit_ray.baselines.subject import anchor
from onceedit_ray.baselines.target_value import TargetSettings, bare_output, locate, target_shift
from onceedit_ray.baselines.teacher_forcing import answer_loss
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.loading import load_model, load_tokenizer
from tests.families import FAMILIES, SENTENCES, build_family
from tests.model_types import build_type, build_wrapped

EDIT = Edit(prompt="The capital of France is", target_new="Curie", subject="France")


def loaded(folder: Path) -> tuple[Any, Any]:
    return load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)


# --- cached beginnings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["qwen3_5_text", "bamba", "bart"])
def test_a_network_whose_heads_cannot_be_cached_gives_the_same_loss_every_time(tmp_path: Path, model_type: str) -> None:
    """Recurrent layers, and positions that a network numbers itself (BART). Also with gradients, which ROME and MEMIT
    follow step after step.
    """
    model, tokenizer = loaded(build_type(model_type, tmp_path / "m"))
    rows = locate(model, tokenizer, EDIT, ["", "The river Nile. "])
    cached = CachedPrefix(model, rows.answers, rows.index_B.tolist())
    assert torch.equal(cached.cut_B, rows.index_B)
    with torch.no_grad():
        whole = float(answer_loss(model, rows.answers))
        assert [float(cached.loss()) for _ in range(3)] == pytest.approx([whole] * 3, abs=1e-6)
    mlp = find_mlps(model)[0]
    before = bare_output(model, mlp.projection, rows)
    shift = target_shift(model, mlp.projection, rows, TargetSettings(steps=4))
    assert float(shift.norm()) > 0
    assert torch.equal(bare_output(model, mlp.projection, rows), before)


# --- what an MLP adds to the residual stream -------------------------------------------------------------------------


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma3"])
def test_the_families_add_an_mlps_output_as_it_is(tmp_path: Path, family: str) -> None:
    model, _ = loaded(build_family(family, tmp_path / "m"))
    assert [residual_factor(model, mlp) for mlp in find_mlps(model)] == [1.0, 1.0]


def test_a_factor_is_found_and_divided_by(tmp_path: Path) -> None:
    model, _ = loaded(build_type("granite", tmp_path / "m", residual_multiplier=0.22))
    for mlp in find_mlps(model):
        assert norm_after(model, mlp) is None
        factor = residual_factor(model, mlp)
        assert factor == pytest.approx(0.22, rel=1e-3)
        r_ND = torch.tensor([[0.22, -0.44]])
        torch.testing.assert_close(value_change(None, torch.zeros(1, 2), r_ND, factor), r_ND / 0.22, rtol=1e-3, atol=0)


@pytest.mark.parametrize("multiplier", [0.22, 1.0])
def test_memit_reaches_its_target_whatever_the_layers_scale_by(tmp_path: Path, multiplier: float) -> None:
    model, tokenizer = loaded(build_type("granite", tmp_path / "m", residual_multiplier=multiplier))
    settings = MemitSettings(depths=(0.0, 0.25), prefixes=(), decay=1e-3, ordinary=1e-4, steps=10)
    memit: Baseline = BASELINES.get("memit")(settings)  # type: ignore[assignment]
    memit.prepare(model, tokenizer, Material(SENTENCES, [EDIT], SENTENCES, tmp_path, "x"), lambda line: None)
    last, at = model.get_submodule(find_mlps(model)[1].layer_path), locate(model, tokenizer, EDIT, [""])
    z_D = bare_output(model, last, at) + target_shift(model, last, at, settings)
    before = float((z_D - bare_output(model, last, at)).norm())
    memit.edit(model, tokenizer, [EDIT], lambda line: None)
    assert float((z_D - bare_output(model, last, at)).norm()) < 0.02 * before


def test_memit_refuses_layers_that_add_by_no_one_factor(tmp_path: Path) -> None:
    """A norm after the sum (OPT-350m), and a shared expert whose share depends on the token."""
    for model_type in ("opt", "qwen2_moe"):
        model, _ = loaded(build_type(model_type, tmp_path / model_type))
        method: Baseline = BASELINES.get("memit")(MemitSettings())  # type: ignore[assignment]
        with pytest.raises(ModelError, match=r"neither as it is nor by one factor.*choose an editor"):
            method.check(model)


# --- where the MLPs are ----------------------------------------------------------------------------------------------


def test_the_width_is_that_of_the_layers(tmp_path: Path) -> None:
    model, _ = loaded(build_type("opt", tmp_path / "m"))
    assert model.get_input_embeddings().weight.shape[1] == 32
    assert [mlp.projection_path for mlp in find_mlps(model)] == [f"model.decoder.layers.{n}.fc2" for n in range(2)]
    edited = edit_with("rome", model, load_tokenizer(tmp_path / "m"), tmp_path)
    assert edited != "refused"


@pytest.mark.parametrize("method", ["grace", "wise", "defer"])
def test_side_modules_are_refused_where_rows_are_flattened(tmp_path: Path, method: str) -> None:
    """The refusal comes before any work, for shared experts and for OPT's layers."""
    for model_type in ("qwen2_moe", "opt"):
        model, _ = loaded(build_type(model_type, tmp_path / model_type))
        editor: Baseline = BASELINES.get(method)(preset(method, model))  # type: ignore[assignment]
        with pytest.raises(ModelError, match="is given no rows of positions"):
            editor.check(model)


@pytest.mark.parametrize("method", ["rome", "grace"])
def test_a_model_inside_a_multimodal_wrapper_is_edited(tmp_path: Path, method: str) -> None:
    model, tokenizer = loaded(build_wrapped("gemma3", tmp_path / "m"))
    assert edit_with(method, model, tokenizer, tmp_path) == "edited"


def edit_with(method: str, model: Any, tokenizer: Any, cache: Path) -> str:
    settings = preset(method, model).model_copy(
        update={"steps": 3, "prefixes": ()} if method == "rome" else {"steps": 3}
    )
    editor: Baseline = BASELINES.get(method)(settings)  # type: ignore[assignment]
    try:
        editor.check(model)
    except ModelError:
        return "refused"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    editor.prepare(model, tokenizer, Material(SENTENCES, [EDIT], SENTENCES, cache, "x"), lambda line: None)
    edited = editor.edit(model, tokenizer, [EDIT], lambda line: None)
    changed = [
        name for name, value in model.state_dict().items() if name not in before or not torch.equal(value, before[name])
    ]
    edited.undo()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return "edited" if changed else "unchanged"


# --- Unicode ---------------------------------------------------------------------------------------------------------


def test_a_subject_is_found_in_the_other_unicode_form() -> None:
    composed, decomposed = "B\u00e9atrice No\u00ebl", "Be\u0301atrice Noe\u0308l"
    for prompt, subject in ((composed, decomposed), (decomposed, composed)):
        place = anchor(Edit(prompt=f"Where was {prompt} born?", target_new="Lyon", subject=subject))
        assert place.subject == composed
        assert place.text[: place.end].endswith("No\u00ebl")
