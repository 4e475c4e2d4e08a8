"""Editing a plug-in: the loss of eq. 5-7 against one written by hand, what is learnt, when it stops, and the seed."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.config import EditingConfig
from onceedit_ray.editing.editors import EDITORS, Outcome
from onceedit_ray.editing.editors.onceedit import OnceEdit
from onceedit_ray.editing.unrelated import UnrelatedSampler
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.views import plugin_view
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.loading import load_model, load_tokenizer
from onceedit_ray.models.local import LocalModel
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


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family("llama", tmp_path_factory.mktemp("editor") / "llama", seed=7)


def editor(folder: Path, view: str = "short", **settings: object) -> tuple[OnceEdit, PreTrainedModel]:
    model = load_model(folder, dtype="float32", device="cpu")
    config = QUICK.model_copy(update=settings)
    return OnceEdit(model, load_tokenizer(folder), EDITS, [UNRELATED], config, view), model


def encoded(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str = "") -> tuple[list[int], list[int]]:
    """The plug-in's view of a prompt, and the answer with its leading space and its end."""
    answer_ids = [*tokenizer(f" {answer}", add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return tokenizer(plugin_view(prompt)).input_ids, answer_ids if answer else []


# --- the loss --------------------------------------------------------------------------------------------------------


def reference(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, weight_id: int, with_weight: bool = False
) -> tuple[float, float]:
    """L_edit and L_weight of all edits and unrelated prompts, from each instance's full logits, one after another."""
    edit_losses: list[Tensor] = []
    gates: list[Tensor] = []
    for prompt, answer in [(edit.prompt, edit.target_new) for edit in EDITS] + [(text, "") for text in UNRELATED]:
        prompt_ids, answer_ids = encoded(tokenizer, prompt, answer)
        with torch.inference_mode():
            logits_TV = model(torch.tensor([prompt_ids + answer_ids])).logits[0].float()
        end = len(prompt_ids) - 1
        gates.append(logits_TV[end, weight_id].clone())
        if not with_weight:
            logits_TV[:, weight_id] = float("-inf")
        edit_losses += [-torch.log_softmax(logits_TV[end + i], -1)[token] for i, token in enumerate(answer_ids)]
    labels = torch.tensor([1.0] * len(EDITS) + [0.0] * len(UNRELATED))
    gate_loss = -(labels * F.logsigmoid(torch.stack(gates)) + (1 - labels) * F.logsigmoid(-torch.stack(gates))).mean()
    return float(torch.stack(edit_losses).mean()), float(gate_loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_the_positions_that_count(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch of everything, against full logits of each instance alone: no padding, no other position plays a part."""
    monkeypatch.setattr(UnrelatedSampler, "draw", lambda self, rng, count: list(UNRELATED))
    folder = build_family(family, tmp_path / family)
    once, model = editor(folder, max_epochs=1, paraphrases=0, batch_size=16, unrelated_per_epoch=len(UNRELATED))
    tokenizer = load_tokenizer(folder)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    weight_id = max(len(tokenizer), model.config.get_text_config().vocab_size - 1)
    weight_id = min(weight_id, model.get_output_embeddings().weight.shape[0] - 1)
    added = [token for token, content in once._tokenizer.get_vocab().items() if token == "[WEIGHT]"]
    assert added
    weight_id = once._tokenizer.get_vocab()["[WEIGHT]"]
    with torch.no_grad():  # so large that it would draw mass from real tokens if it competed with them
        model.get_output_embeddings().weight[weight_id] *= 30
    before = copy.deepcopy(model).eval()

    (epoch,) = once.run().epochs

    edit_loss, weight_loss = reference(before, tokenizer, weight_id)
    assert epoch.edit_loss == pytest.approx(edit_loss, rel=1e-4)
    assert epoch.weight_loss == pytest.approx(weight_loss, rel=1e-4)
    assert abs(reference(before, tokenizer, weight_id, with_weight=True)[0] - edit_loss) > 1e-2, "the test can tell"
