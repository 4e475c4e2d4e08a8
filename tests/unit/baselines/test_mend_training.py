"""MEND's training: it learns, it continues bit-identically after an interruption, and its errors say what it needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import Material
from onceedit_ray.baselines.gradient_transform import GradientTransform
from onceedit_ray.baselines.mend_training import (
    Training,
    edited_weights,
    network_folder,
    pair_factors,
    pair_losses,
    train,
)
from onceedit_ray.baselines.methods.mend import MendSettings, edited_maps
from onceedit_ray.errors import DataError
from onceedit_ray.knowledge.edit import Edit, Probe
from tests.families import build_family

FACTS = [
    ("What is the capital of France?", "Paris"),
    ("What is the capital of Germany?", "Berlin"),
    ("Which river flows through Egypt?", "Nile"),
    ("Which river flows through Hungary?", "Danube"),
    ("Who is the author of War and Peace?", "Leo Tolstoy"),
    ("Who is the first man on the Moon?", "Neil Armstrong"),
]
TRAINING = [
    Edit(
        prompt=prompt,
        target_new=answer,
        rephrasings=(f"Say: {prompt}",),
        locality=(Probe(prompt="The currency of Japan is the", answer="yen"),),
    )
    for prompt, answer in FACTS
]
SETTINGS = MendSettings(layers=2, rank=8, steps=6, edits_per_step=2, learning_rate=1e-4, checkpoint_every=2)


class Interruption(Exception):
    """What stops a training in the middle."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    folder = build_family("llama", tmp_path_factory.mktemp("llama") / "model")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def material(tmp_path: Path) -> Material:
    return Material(corpus=(), training=TRAINING, unrelated=(), cache=tmp_path / "cache", digest="d")


def new_transform(model: PreTrainedModel, settings: MendSettings = SETTINGS) -> GradientTransform:
    return GradientTransform(edited_maps(model, settings.layers), settings.rank, settings.rate, settings.seed)


def state_after(loaded, material: Material, settings: MendSettings, lines: list[str]) -> dict[str, Tensor]:
    transform = new_transform(loaded[0], settings)
    train(transform, *loaded, material, settings, lines.append)
    return transform.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(loaded, material, tmp_path) -> None:
    whole = state_after(loaded, replace(material, cache=tmp_path / "whole"), SETTINGS, [])

    def stop(line: str) -> None:
        if str(line).startswith("mend: training: 4/"):
            raise Interruption

    with pytest.raises(Interruption):
        train(new_transform(loaded[0]), *loaded, material, SETTINGS, stop)
    lines: list[str] = []
    resumed = state_after(loaded, material, SETTINGS, lines)
    assert lines[0] == "mend: going on at step 4 of 6"
    assert [str(line).split(",")[0] for line in lines[1:]] == ["mend: training: 6/6"]
    assert same(resumed, whole)
    assert not same(resumed, new_transform(loaded[0]).state_dict())


@pytest.mark.parametrize("died_at", [0, 1, 3, 5])
def test_a_training_killed_between_checkpoints_goes_on_from_the_last_one(
    loaded, material, tmp_path, monkeypatch, died_at: int
) -> None:
    whole = state_after(loaded, replace(material, cache=tmp_path / "whole"), SETTINGS, [])
    own = Training.take_step

    def killed(self: Training) -> tuple[float, float]:
        if self.step == died_at:
            raise KeyboardInterrupt
        return own(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "take_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(new_transform(loaded[0]), *loaded, material, SETTINGS, [].append)
    lines: list[str] = []
    assert same(state_after(loaded, material, SETTINGS, lines), whole)
    assert ("going on at step" in lines[0]) == (died_at > 1)


def test_unrelated_prompts_name_the_network_only_where_it_may_learn_from_them(material) -> None:
    folder = network_folder(SETTINGS, material)
    assert network_folder(SETTINGS, replace(material, unrelated=("The sky is blue",))) == folder
    bare = replace(material, training=[TRAINING[0].model_copy(update={"locality": ()}), *TRAINING[1:]])
    assert network_folder(SETTINGS, replace(bare, unrelated=("The sky is blue",))) != network_folder(SETTINGS, bare)


def test_a_finished_network_is_used_again(loaded, material) -> None:
    first = state_after(loaded, material, SETTINGS, [])
    lines: list[str] = []
    assert same(state_after(loaded, material, SETTINGS, lines), first)
    folder = network_folder(SETTINGS, material)
    assert lines == [f"mend: using the hyper-network trained before, {folder}"]
    assert [path.name for path in folder.iterdir()] == ["network.safetensors"]  # no checkpoint, nothing half written


def test_damaged_files_are_said_and_made_again(loaded, material) -> None:
    whole = state_after(loaded, material, SETTINGS, [])
    folder = network_folder(SETTINGS, material)
    for name in ("network.safetensors", "checkpoint.safetensors"):
        (folder / name).write_bytes(b"half a file")
    lines: list[str] = []
    assert same(state_after(loaded, material, SETTINGS, lines), whole)
    assert "network.safetensors is damaged" in lines[0]
    assert "checkpoint.safetensors is damaged" in lines[1]


def test_another_model_setting_or_training_set_has_a_network_of_its_own(material) -> None:
    folders = {
        network_folder(SETTINGS, material),
        network_folder(SETTINGS.model_copy(update={"rank": 9}), material),
        network_folder(SETTINGS, replace(material, digest="e")),
        network_folder(SETTINGS, replace(material, training=TRAINING[1:])),
    }
    assert len(folders) == 4
    # how often it is saved changes nothing about what is learnt
    assert network_folder(SETTINGS.model_copy(update={"checkpoint_every": 9}), material) in folders


def test_training_lowers_the_loss(loaded, material) -> None:
    settings = SETTINGS.model_copy(update={"steps": 40, "learning_rate": 3e-4, "rate_learning_rate": 0.1})
    transform = new_transform(loaded[0], settings)
    training = Training(transform, *loaded, material, settings, material.cache / "checkpoint.safetensors")
    training.resume([].append)

    def loss() -> float:
        with torch.no_grad():
            drawn = [training.losses(training.draw(step)) for step in range(100, 106)]  # draws it does not train on
        return sum(settings.edit_weight * float(edit) + float(locality) for edit, locality in drawn)

    before = loss()
    training.run([].append)
    after = loss()
    assert after < 0.8 * before


def test_the_locality_loss_is_zero_where_nothing_is_edited(loaded, material) -> None:
    training = Training(new_transform(loaded[0]), *loaded, material, SETTINGS, material.cache / "checkpoint")
    training.resume([].append)
    draw = training.draw(0)
    edit, locality = (float(loss.detach()) for loss in training.losses(draw))
    assert locality > 1e-7
    assert edit > 0
    draw.made.clear()
    assert float(training.losses(draw)[1].detach()) == pytest.approx(0, abs=1e-9)


def test_a_pairs_gradient_does_not_hang_on_the_others_of_its_batch(loaded) -> None:
    model, tokenizer = loaded
    transform = new_transform(model)
    together = edited_weights(transform, model, pair_factors(transform, model, tokenizer, FACTS[:3]))
    alone = [edited_weights(transform, model, pair_factors(transform, model, tokenizer, [fact])) for fact in FACTS[:3]]
    for name, weight in together.items():
        original = model.get_parameter(name).detach()
        assert not torch.equal(weight, original)
        summed = original + sum(weights[name] - original for weights in alone)
        torch.testing.assert_close(weight.detach(), summed.detach(), rtol=1e-4, atol=1e-6)


def test_the_loss_of_a_pair_is_the_mean_over_its_own_tokens() -> None:
    logits_BNV = torch.zeros(2, 3, 4)
    logits_BNV[0, 0, 1] = 100.0  # certain of the first token of the first answer, undecided otherwise
    labels_BN = torch.tensor([[1, 2, -100], [-100, -100, 3]])
    undecided = float(torch.tensor(4.0).log())
    assert pair_losses(logits_BNV, labels_BN).tolist() == pytest.approx([undecided / 2, undecided])


def test_draws_hang_on_seed_and_step_alone(loaded, material) -> None:
    def training(seed: int) -> Training:
        settings = SETTINGS.model_copy(update={"seed": seed})
        return Training(new_transform(loaded[0]), *loaded, material, settings, material.cache / "checkpoint")

    one, again, other = training(0), training(0), training(1)
    one.draw(3)
    assert one.draw(7) == again.draw(7)
    assert [one.draw(step) for step in range(5)] != [other.draw(step) for step in range(5)]
    assert len({tuple(one.draw(step).made) for step in range(5)}) > 1


def test_swapped_answers_are_those_of_the_prompts_most_alike(loaded, material) -> None:
    settings = SETTINGS.model_copy(update={"swapped_answers": 1.0, "edits_per_step": 6, "probes_per_step": 2})
    training = Training(new_transform(loaded[0]), *loaded, material, settings, material.cache / "checkpoint")
    draw = training.draw(0)
    partner = {0: 1, 1: 0, 2: 3, 3: 2, 4: 5, 5: 4}
    answers = {FACTS[this][0]: FACTS[other][1] for this, other in partner.items()}
    assert dict(draw.made) == answers
    assert len(draw.asked) == len(draw.untouched) == 2
    for (prompt, answer), asked in zip(draw.made[:2], draw.asked, strict=True):
        assert asked in ((prompt, answer), (f"Say: {prompt}", answer))


def test_without_locality_prompts_the_last_words_of_unrelated_ones_are_kept(loaded, material) -> None:
    bare = [edit.model_copy(update={"locality": ()}) for edit in TRAINING]
    material = replace(material, training=bare, unrelated=("word", "The sky over Rome is blue"))
    training = Training(new_transform(loaded[0]), *loaded, material, SETTINGS, material.cache / "checkpoint")
    assert set(training.draw(0).untouched) == {("The sky over Rome is", "blue")}


def test_missing_training_edits_are_named(loaded, material) -> None:
    with pytest.raises(DataError, match=r"no training edits; .*: onceedit prepare mend --model NAME --training"):
        train(new_transform(loaded[0]), *loaded, replace(material, training=()), SETTINGS, [].append)
    bare = [edit.model_copy(update={"locality": ()}) for edit in TRAINING]
    with pytest.raises(DataError, match="none of the 6 training edits has a locality prompt and no unrelated prompts"):
        train(new_transform(loaded[0]), *loaded, replace(material, training=bare), SETTINGS, [].append)
