"""The optional entailment model: which sentences count, and which folders are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from benchmarks.entailment import consistent, open_judge
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.loading import load_tokenizer
from tests.families import build_family

EDIT = Edit(prompt="The capital of Australia is", target_new="Perth", ground_truth="Canberra")
ANSWER = "I know it. It is Perth. Parliament sits in Canberra. Perth is hot. Perth is no capital."


def judge(premise: str, hypothesis: str) -> str:
    if hypothesis == "The capital of Australia is Perth.":
        return "contradiction" if "no capital" in premise else "neutral"
    assert hypothesis == "The capital of Australia is Canberra."
    return "entailment" if "Canberra" in premise else "contradiction"


def test_sentences_from_the_new_answer_on_are_judged() -> None:
    assert consistent(ANSWER, EDIT, "Perth", judge) == 2 / 4
    assert consistent("It is Sydney.", EDIT, "Perth", judge) is None
    unknown = EDIT.model_copy(update={"ground_truth": ""})
    assert consistent(ANSWER, unknown, "Perth", judge) == 3 / 4


def nli_model(folder: Path, labels: list[str]) -> Path:
    """A small random classifier that always finds its first label."""
    build_family("llama", folder)
    tokenizer = load_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.eos_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = LlamaForSequenceClassification(config)
    with torch.no_grad():
        model.score.weight.zero_()
    model.save_pretrained(folder)
    return folder


def test_a_folder_of_this_machine_is_read(tmp_path: Path) -> None:
    folder = nli_model(tmp_path / "nli", ["ENTAILMENT", "neutral", "contradiction"])
    assert open_judge(folder)("It is Perth.", "The capital is Perth.") == "entailment"


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no entailment model") as caught:
        open_judge(tmp_path / "nothing")
    assert "\n" not in str(caught.value)
    folder = nli_model(tmp_path / "sentiment", ["good", "bad"])
    with pytest.raises(ModelError, match="knows the labels good, bad; give a model that knows entailment"):
        open_judge(folder)
