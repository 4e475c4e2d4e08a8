"""MEND as a baseline: before training it is one fine-tuning step; undo, save and load are exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig, PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import BASELINES, BaselineSettings, Material, preset
from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.methods.mend import Mend, MendSettings, edited_maps
from onceedit_ray.baselines.teacher_forcing import answer_batch, answer_loss
from onceedit_ray.errors import ConfigError, DataError, ModelError
from onceedit_ray.knowledge.edit import Edit, Probe
from tests.families import FAMILIES, build_family

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

EDITS = [
    Edit(prompt="The capital of France is", target_new="Berlin"),
    Edit(prompt="The river Nile flows through", target_new="Sweden"),
]
TRAINING = [
    Edit(
        prompt="The author of the novel is",
        target_new="Leo Tolstoy",
        locality=(Probe(prompt="The currency of Japan is the", answer="yen"),),
    ),
    Edit(prompt="The mother tongue of Antonio is", target_new="Italian"),
]
UNTRAINED = MendSettings(layers=1, rank=4, rate=1e-2, steps=0)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return built(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return built("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def material(tmp_path: Path) -> Material:
    return Material(corpus=(), training=TRAINING, unrelated=(), cache=tmp_path / "cache", digest="d")


def built(name: str, folder: Path) -> Loaded:
    build_family(name, folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    return model, AutoTokenizer.from_pretrained(folder / "model")


def parameters(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def edited(loaded: Loaded, material: Material, settings: MendSettings = UNTRAINED) -> EditedModel:
    method = Mend(settings)
    method.prepare(*loaded, material, [].append)
    return method.edit(*loaded, EDITS, [].append)


def test_before_training_an_edit_is_one_step_of_plain_fine_tuning(family: Loaded, material: Material) -> None:
    model, tokenizer = family
    before = parameters(model)
    maps = edited_maps(model, 1)
    method = Mend(UNTRAINED)
    method.prepare(model, tokenizer, material, [].append)
    assert same(parameters(model), before)
    model.requires_grad_(True)
    loss = sum(answer_loss(model, answer_batch(tokenizer, [(e.prompt, e.target_new)], "cpu")) for e in EDITS)
    names = [linear.weight_path for linear in maps]
    gradients = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
    outcome = method.edit(model, tokenizer, EDITS, [].append)
    after = parameters(model)
    for number, (name, gradient) in enumerate(zip(names, gradients, strict=True)):
        step = method._transform.step_size(number).detach()
        torch.testing.assert_close(after[name] - before[name], -step * gradient, rtol=1e-3, atol=1e-6)
        assert not torch.equal(after[name], before[name])
    assert {name for name in after if not torch.equal(after[name], before[name])} == set(names)
    outcome.undo()
    assert same(parameters(model), before)


def test_the_maps_are_those_of_the_last_layers_mlps(family: Loaded) -> None:
    model, _ = family
    kinds = {"gpt2": "c_fc c_proj", "gptj": "fc_in fc_out"}
    expected = kinds.get(model.config.model_type, "gate_proj up_proj down_proj").split()
    assert [linear.path.split(".")[-1] for linear in edited_maps(model, 1)] == expected
    both = edited_maps(model, 2)
    assert [linear.path.split(".mlp.")[1] for linear in both] == expected * 2
    assert ".0." in both[0].path and ".1." in both[-1].path


def test_maps_that_stand_in_the_layer_itself_leave_attention_out() -> None:
    config = OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16
    )
    maps = edited_maps(AutoModelForCausalLM.from_config(config), 1)
    assert [linear.path.split(".")[-1] for linear in maps] == ["fc1", "fc2"]


def test_a_trained_edit_is_undone_saved_and_loaded_exactly(llama: Loaded, material: Material, tmp_path: Path) -> None:
    model, tokenizer = llama
    before = parameters(model)
    settings = UNTRAINED.model_copy(update={"steps": 2, "edits_per_step": 1, "learning_rate": 1e-3})
    outcome = edited(llama, material, settings)
    after = parameters(model)
    outcome.save(tmp_path / "edit")
    outcome.undo()
    assert same(parameters(model), before)
    assert not same(after, before)
    loaded = Mend(UNTRAINED).load(model, tokenizer, tmp_path / "edit")
    assert same(parameters(model), after)
    assert loaded.settings == settings.model_dump(mode="json")
    loaded.undo()
    assert same(parameters(model), before)


def test_an_edit_makes_the_new_answer_likelier(llama: Loaded, material: Material) -> None:
    model, tokenizer = llama
    batch = answer_batch(tokenizer, [(edit.prompt, edit.target_new) for edit in EDITS], "cpu")
    with torch.no_grad():
        before = float(answer_loss(model, batch))
        outcome = edited(llama, material)
        after = float(answer_loss(model, batch))
        outcome.undo()
    assert after < before


def test_a_half_precision_model_is_edited_in_its_own_precision(tmp_path: Path, material: Material) -> None:
    model, tokenizer = built("gpt2", tmp_path)
    model = model.bfloat16()
    before = parameters(model)
    outcome = edited((model, tokenizer), material)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not same(parameters(model), before)
    outcome.undo()
    assert same(parameters(model), before)


def test_an_edit_needs_a_network_for_its_model(llama: Loaded) -> None:
    with pytest.raises(ModelError, match="no hyper-network for this model; call `prepare`"):
        Mend(UNTRAINED).edit(*llama, EDITS, [].append)


def test_a_missing_training_part_is_named(llama: Loaded, material: Material) -> None:
    with pytest.raises(DataError, match="give the dataset's training part"):
        Mend(UNTRAINED).prepare(*llama, replace(material, training=()), [].append)


def test_models_that_cannot_be_edited_this_way_say_so(llama: Loaded, tmp_path: Path) -> None:
    model, _ = built("llama", tmp_path)
    Mend(UNTRAINED).check(model)
    with pytest.raises(ModelError, match="has 2 layers and mend is to edit 3; set layers lower"):
        Mend(MendSettings()).check(model)
    mlp = model.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj = nn.Identity(), nn.Identity()
    with pytest.raises(ModelError, match=r"layers\.1\.mlp of LlamaForCausalLM has no linear map from 48 to 96"):
        Mend(UNTRAINED).check(model)


def test_another_methods_edit_is_refused(llama: Loaded, tmp_path: Path) -> None:
    EditedModel(llama[0], "rome", {}).save(tmp_path / "edit")
    with pytest.raises(ModelError, match="holds an edit by 'rome', not by 'mend'"):
        Mend(UNTRAINED).load(*llama, tmp_path / "edit")


def test_it_is_found_by_name_with_its_presets(llama: Loaded) -> None:
    assert BASELINES.get("mend") is Mend
    assert preset("mend", llama[0]) == MendSettings()
    assert Mend.presets["gptj"].rank == 1920
    with pytest.raises(ConfigError, match="give it MendSettings"):
        Mend(BaselineSettings())
