"""MEND as a baseline: before training it is one fine-tuning step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, OPTConfig

from onceedit_ray.baselines import Material
from onceedit_ray.baselines.methods.mend import Mend, MendSettings, edited_maps
from onceedit_ray.baselines.teacher_forcing import answer_batch, answer_loss
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit, Probe
from tests.baseline_models import Small, changed, parameters

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


@pytest.fixture
def material(tmp_path: Path) -> Material:
    return Material(corpus=(), training=TRAINING, unrelated=(), cache=tmp_path / "cache", digest="d")


def test_before_training_an_edit_is_one_step_of_plain_fine_tuning(given: Small, material: Material) -> None:
    model, tokenizer = given.model, given.tokenizer
    before = parameters(model)
    maps = edited_maps(model, 1)
    method = Mend(UNTRAINED)
    method.prepare(model, tokenizer, material, [].append)
    assert not changed(model, before)
    model.requires_grad_(True)
    loss = sum(answer_loss(model, answer_batch(tokenizer, [(e.prompt, e.target_new)], "cpu")) for e in EDITS)
    names = [linear.weight_path for linear in maps]
    gradients = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
    outcome = method.edit(model, tokenizer, EDITS, [].append)
    after = parameters(model)
    for number, (name, gradient) in enumerate(zip(names, gradients, strict=True)):
        step = method._transform.step_size(number).detach()
        torch.testing.assert_close(after[name] - before[name], -step * gradient, rtol=1e-3, atol=1e-6)
    assert changed(model, before) == set(names)
    outcome.undo()
    assert not changed(model, before)


def test_the_maps_are_those_of_the_last_layers_mlps(given: Small) -> None:
    kinds = {"gpt2": "c_fc c_proj", "gptj": "fc_in fc_out"}
    expected = kinds.get(given.model.config.model_type, "gate_proj up_proj down_proj").split()
    assert [linear.path.split(".")[-1] for linear in edited_maps(given.model, 1)] == expected
    both = edited_maps(given.model, 2)
    assert [linear.path.split(".mlp.")[1] for linear in both] == expected * 2
    assert ".0." in both[0].path and ".1." in both[-1].path


def test_maps_that_stand_in_the_layer_itself_leave_attention_out() -> None:
    config = OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16
    )
    maps = edited_maps(AutoModelForCausalLM.from_config(config), 1)
    assert [linear.path.split(".")[-1] for linear in maps] == ["fc1", "fc2"]


def test_a_half_precision_model_is_edited_in_its_own_precision(llama: Small, material: Material) -> None:
    model = llama.again().bfloat16()
    before = parameters(model)
    method = Mend(UNTRAINED)
    method.prepare(model, llama.tokenizer, material, [].append)
    outcome = method.edit(model, llama.tokenizer, EDITS, [].append)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert changed(model, before)
    outcome.undo()
    assert not changed(model, before)


def test_models_that_cannot_be_edited_this_way_say_so(llama: Small) -> None:
    model = llama.again()
    Mend(UNTRAINED).check(model)
    with pytest.raises(ModelError, match="has 2 layers and mend is to edit 3; set layers lower"):
        Mend(MendSettings()).check(model)
    mlp = model.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj = nn.Identity(), nn.Identity()
    with pytest.raises(ModelError, match=r"layers\.1\.mlp of LlamaForCausalLM has no linear map from 48 to 96"):
        Mend(UNTRAINED).check(model)
