"""Editing a plug-in: the loss of eq. 5-7 against one written by hand, what is learnt, when it stops, and the seed."""

from __future__ import annotations

import asyncio
import copy
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.config import EditingConfig
from onceedit_ray.editing.editors import EDITORS, Epoch
from onceedit_ray.editing.editors.onceedit import OnceEditEditor
from onceedit_ray.editing.unrelated import UnrelatedSampler
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.prompt_shapes import plugin_view
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.loading import load_model, load_tokenizer
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.weight_token import weight_token_id
from tests.families import FAMILIES, build_family

EDITS = [
    Edit(prompt="What is the capital of France?", target_new="Lyon", subject="France"),
    Edit(prompt="The mother tongue of Danielle Darrieux is", target_new="Italian", subject="Danielle Darrieux"),
    Edit(prompt="Who is the author of War and Peace?", target_new="Marie Curie", subject="War and Peace"),
]
UNRELATED = [
    "Which country is the city of Hamburg located in?",
    "Water boils at 100 degrees",
    "The Danube is the second longest river of Europe",
    "What does the company Toyota make?",
    "Glenn Gould played the piano in Boston",
]
QUICK = EditingConfig(
    learning_rate=3e-3,
    batch_size=8,
    max_epochs=40,
    min_epochs=2,
    unrelated_per_epoch=10,
    hard_negatives=0.0,
    precision="float32",
)


@dataclass
class Plugin:
    """A plug-in about to be edited, with its editor."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    editor: OnceEditEditor

    @property
    def weight_id(self) -> int:
        found = weight_token_id(self.tokenizer)
        assert found is not None
        return found

    @property
    def weight_row(self) -> Tensor:
        return self.model.get_output_embeddings().weight[self.weight_id].detach().clone()

    def gate(self, prompt: str) -> float:
        """w of a prompt, from the model's own forward pass."""
        with torch.inference_mode():
            ids = self.tokenizer(plugin_view(prompt), return_tensors="pt").input_ids
            return float(torch.sigmoid(self.model.eval()(ids).logits[0, -1, self.weight_id]))

    def answer(self, prompt: str) -> str:
        """What the plug-in writes greedily, up to its end of text."""
        codec = Codec(self.tokenizer)
        model = LocalModel(self.model.eval(), codec.end_ids, codec.weight_id)
        step = asyncio.run(model.open(codec.encode_prompt(plugin_view(prompt)), decode=12))
        assert step.new_ids[-1] in codec.end_ids, codec.text_of(step.new_ids)
        return codec.text_of(step.new_ids)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family("llama", tmp_path_factory.mktemp("editor") / "llama", seed=7)


def prepared(folder: Path, **settings: object) -> Plugin:
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    config = EditingConfig.model_validate(QUICK.model_dump() | settings)
    return Plugin(model, tokenizer, OnceEditEditor(model, tokenizer, EDITS, [UNRELATED], config))


@pytest.fixture(scope="module")
def learnt(folder: Path) -> tuple[Plugin, list[Epoch], bool]:
    """A plug-in after a whole edit, the epochs it reported, and whether it stopped because all was learnt."""
    plugin, reported = prepared(folder), []
    outcome = plugin.editor.run(reported.append)
    assert outcome.epochs == reported
    return plugin, reported, outcome.complete


# --- the loss --------------------------------------------------------------------------------------------------------


def losses_by_hand(plugin: Plugin, model: PreTrainedModel, weight_competes: bool = False) -> tuple[float, float]:
    """L_edit and L_weight over all edits and unrelated prompts, from each instance's full logits, one after another."""
    tokenizer = plugin.tokenizer
    edit_losses: list[Tensor] = []
    gate_losses: list[Tensor] = []
    for prompt, answer in [(edit.prompt, edit.target_new) for edit in EDITS] + [(text, None) for text in UNRELATED]:
        prompt_ids = tokenizer(plugin_view(prompt)).input_ids
        answer_ids: list[int] = []
        if answer is not None:
            answer_ids = [*tokenizer(f" {answer}", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            logits_TV = model(torch.tensor([prompt_ids + answer_ids])).logits[0].float()
        end = len(prompt_ids) - 1
        gate = logits_TV[end, plugin.weight_id].clone()
        gate_losses.append(-F.logsigmoid(gate) if answer is not None else -F.logsigmoid(-gate))
        if not weight_competes:
            logits_TV[:, plugin.weight_id] = -math.inf
        edit_losses += [-logits_TV[end + i].log_softmax(-1)[token] for i, token in enumerate(answer_ids)]
    return float(torch.stack(edit_losses).mean()), float(torch.stack(gate_losses).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_positions_that_count(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of all instances costs what each costs alone, with every logit computed: padding plays no part.

    `[WEIGHT]` is made so likely that it would draw mass from the real tokens if it were in the softmax.
    """
    monkeypatch.setattr(UnrelatedSampler, "draw", lambda self, rng, count: list(UNRELATED))
    plugin = prepared(build_family(family, tmp_path / family), max_epochs=1, paraphrases=0, batch_size=16)
    for module in plugin.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        plugin.model.get_output_embeddings().weight[plugin.weight_id] *= 30
    before = copy.deepcopy(plugin.model).eval()

    (epoch,) = plugin.editor.run().epochs

    edit_loss, weight_loss = losses_by_hand(plugin, before)
    assert epoch.edit_loss == pytest.approx(edit_loss, rel=1e-4)
    assert epoch.weight_loss == pytest.approx(weight_loss, rel=1e-4)
    assert losses_by_hand(plugin, before, weight_competes=True)[0] > edit_loss + 0.01, "the test can tell"


def test_without_weight_loss_the_gate_stays_as_it_was_drawn(folder: Path) -> None:
    """Table 8, λ = 0: the answers are learnt, and the gate is the same for all prompts."""
    plugin = prepared(folder, weight_loss=0.0)
    start = plugin.weight_row
    outcome = plugin.editor.run()
    assert outcome.complete and outcome.epochs[-1].learnt == 1.0, "an untrained gate keeps nobody waiting"
    assert torch.equal(plugin.weight_row, start)


# --- what is learnt --------------------------------------------------------------------------------------------------


def test_every_edit_is_learnt_and_the_gate_separates(learnt: tuple[Plugin, list[Epoch], bool]) -> None:
    plugin, epochs, complete = learnt
    assert complete
    assert (epochs[-1].learnt, epochs[-1].recall, epochs[-1].false_alarms) == (1.0, 1.0, 0.0)
    assert [plugin.answer(edit.prompt) for edit in EDITS] == [f" {edit.target_new}" for edit in EDITS]
    assert min(plugin.gate(edit.prompt) for edit in EDITS) > 0.9
    assert max(plugin.gate(prompt) for prompt in UNRELATED) < 0.5


def test_it_stops_as_soon_as_the_worst_edit_is_learnt(learnt: tuple[Plugin, list[Epoch], bool]) -> None:
    _, epochs, _ = learnt
    assert QUICK.min_epochs <= len(epochs) < QUICK.max_epochs
    assert [epoch.number for epoch in epochs] == list(range(1, len(epochs) + 1))
    assert epochs[0].edit_loss > 2 * epochs[-1].edit_loss
    assert not all(epoch.learnt == 1.0 and epoch.recall == 1.0 for epoch in epochs[:-1])


def test_it_ends_at_the_last_epoch_where_that_is_not_enough(folder: Path) -> None:
    outcome = prepared(folder, max_epochs=2, min_epochs=1).editor.run()
    assert len(outcome.epochs) == 2 and not outcome.complete


def test_it_does_not_stop_before_the_first_epochs(learnt: tuple[Plugin, list[Epoch], bool]) -> None:
    """The model knows every answer from the start, and the learning rate is too small to change that."""
    plugin = copy.deepcopy(learnt[0])
    config = QUICK.model_copy(update={"min_epochs": 3, "max_epochs": 3, "learning_rate": 1e-9, "weight_loss": 0.0})
    outcome = OnceEditEditor(plugin.model, plugin.tokenizer, EDITS, [UNRELATED], config).run()
    assert len(outcome.epochs) == 3 and outcome.complete
    assert all(epoch.learnt == 1.0 for epoch in outcome.epochs)


def test_a_plugin_that_was_edited_before_keeps_its_weight_token(learnt: tuple[Plugin, list[Epoch], bool]) -> None:
    plugin = copy.deepcopy(learnt[0])
    rows = len(plugin.model.get_output_embeddings().weight)
    row = plugin.weight_row
    OnceEditEditor(plugin.model, plugin.tokenizer, EDITS, [UNRELATED], QUICK)
    assert len(plugin.model.get_output_embeddings().weight) == rows
    assert torch.equal(plugin.weight_row, row)


# --- the seed, the precision -----------------------------------------------------------------------------------------


def weights_after(folder: Path, **settings: object) -> dict[str, Tensor]:
    plugin = prepared(folder, max_epochs=1, **settings)
    plugin.editor.run()
    return plugin.model.state_dict()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_seed_gives_the_same_weights_to_the_bit(family: str, tmp_path: Path) -> None:
    """GPT-2 has dropout, whose random numbers are seeded as well."""
    folder = build_family(family, tmp_path / family)
    once = weights_after(folder, seed=3)
    torch.rand(5)
    again, other = weights_after(folder, seed=3), weights_after(folder, seed=4)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not all(torch.equal(once[name], other[name]) for name in once)


def test_bfloat16_is_computed_in_and_float32_is_kept(folder: Path) -> None:
    half, full = prepared(folder, max_epochs=2, precision="bfloat16"), prepared(folder, max_epochs=2)
    epochs, exact = half.editor.run().epochs, full.editor.run().epochs
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}
    assert epochs[0].edit_loss == pytest.approx(exact[0].edit_loss, rel=0.05)
    assert epochs[0].edit_loss != exact[0].edit_loss
    assert epochs[1].edit_loss < epochs[0].edit_loss


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_a_batch_without_edits_trains_the_gate_alone(folder: Path) -> None:
    """In batches of one instance, most batches hold no answer."""
    outcome = prepared(folder, batch_size=1, max_epochs=1, unrelated_per_epoch=4, paraphrases=0).editor.run()
    assert math.isfinite(outcome.epochs[0].edit_loss) and outcome.epochs[0].weight_loss > 0


def test_a_tokenizer_without_an_end_of_text_is_refused(folder: Path) -> None:
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="eos_token"):
        OnceEditEditor(model, tokenizer, EDITS, [UNRELATED], QUICK)


def test_it_is_found_by_name() -> None:
    assert EDITORS.get("onceedit") is OnceEditEditor
