"""FT-L: no weight moves further than the bound; the first step is Adam's."""

from __future__ import annotations

import torch

from onceedit_ray.baselines.methods.fine_tune_layer import FineTuneLayer, FineTuneLayerSettings
from onceedit_ray.baselines.mlps import find_mlps
from onceedit_ray.baselines.teacher_forcing import answer_batch, answer_loss
from onceedit_ray.knowledge.edit import Edit
from tests.baseline_models import EDITS, Small, changed, parameters

SETTINGS = FineTuneLayerSettings(depth=0.5, steps=6, learning_rate=2e-3, bound=5e-3, goal=0.0, batch_size=2)


def loss(given: Small, edits: tuple[Edit, ...] = EDITS) -> float:
    with torch.no_grad():
        pairs = [(edit.prompt, edit.target_new) for edit in edits]
        return answer_loss(given.model, answer_batch(given.tokenizer, pairs, "cpu")).item()


def test_every_weight_stays_within_the_bound_and_some_reach_it(given: Small) -> None:
    name = find_mlps(given.model)[1].weight_path
    before, own = parameters(given.model), loss(given)
    edited = FineTuneLayer(SETTINGS).edit(given.model, given.tokenizer, EDITS, [].append)
    moved = (given.model.get_parameter(name).detach().double() - before[name].double()).abs()
    names, now = changed(given.model, before), loss(given)
    edited.undo()
    rounding = float(before[name].abs().max()) * 2**-23
    assert moved.max() <= SETTINGS.bound + rounding
    assert (moved > 0.99 * SETTINGS.bound).float().mean() > 0.05
    assert names == {name}
    assert now < own
    assert not changed(given.model, before)


def test_a_wide_bound_binds_nothing_and_it_stops_when_the_edit_is_learnt(llama: Small) -> None:
    name = find_mlps(llama.model)[1].weight_path
    before = parameters(llama.model)
    wide = SETTINGS.model_copy(update={"bound": 1.0, "steps": 60, "goal": 0.5, "learning_rate": 2e-2})
    lines: list[str] = []
    edited = FineTuneLayer(wide).edit(llama.model, llama.tokenizer, EDITS[:1], lines.append)
    moved = (llama.model.get_parameter(name).detach() - before[name]).abs().max()
    now = loss(llama, EDITS[:1])
    edited.undo()
    assert moved > SETTINGS.bound
    assert now < 0.5
    assert len(lines) < 60


def test_the_first_step_is_the_learning_rate_against_the_gradients_sign(llama: Small) -> None:
    name = find_mlps(llama.model)[1].weight_path
    before = parameters(llama.model)
    pairs = [(EDITS[0].prompt, EDITS[0].target_new)]
    batch_loss = answer_loss(llama.model, answer_batch(llama.tokenizer, pairs, "cpu"))
    (gradient,) = torch.autograd.grad(batch_loss, llama.model.get_parameter(name))
    one = SETTINGS.model_copy(update={"steps": 1})
    edited = FineTuneLayer(one).edit(llama.model, llama.tokenizer, EDITS[:1], [].append)
    step = llama.model.get_parameter(name).detach() - before[name]
    edited.undo()
    clear = gradient.abs() > 1e-5
    assert clear.float().mean() > 0.5
    torch.testing.assert_close(step[clear], -SETTINGS.learning_rate * gradient.sign()[clear], rtol=1e-2, atol=1e-7)


def test_the_seed_decides_the_order_of_the_edits(llama: Small) -> None:
    results = []
    for seed in (0, 1):
        settings = SETTINGS.model_copy(update={"seed": seed})
        edited = FineTuneLayer(settings).edit(llama.model, llama.tokenizer, EDITS, [].append)
        results.append(parameters(llama.model)[find_mlps(llama.model)[1].weight_path])
        edited.undo()
    assert not torch.equal(results[0], results[1])


def test_published_layers_are_met_on_the_published_depths() -> None:
    for family, (layers, layer) in {"gpt2": (48, 0), "gptj": (28, 0), "llama": (32, 21), "qwen2": (28, 27)}.items():
        settings = FineTuneLayer.presets[family]
        assert isinstance(settings, FineTuneLayerSettings)
        assert round(settings.depth * layers) == layer
