"""Prompts with answers as batches: where the labels are, and the loss against one written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from onceedit_ray.baselines.teacher_forcing import (
    OUTSIDE,
    answer_batch,
    answer_ids,
    answer_logits,
    answer_loss,
    check_edits,
)
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.codec import Codec
from tests.baseline_models import Small, small
from tests.families import FAMILIES

PAIRS = [
    ("The capital of France is", "Paris"),
    ("What is the native language of Marie Curie?", "Polish, of course"),
]


@pytest.fixture(scope="module", params=FAMILIES)
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    return small(request.param, tmp_path_factory.mktemp(request.param))


def test_labels_are_the_answers_tokens_with_their_leading_space_and_nothing_else(given: Small) -> None:
    codec = Codec(given.tokenizer)
    batch = answer_batch(given.tokenizer, PAIRS, "cpu")
    assert batch.ids_BT.shape == batch.labels_BT.shape == batch.attention_mask_BT.shape
    for row, (prompt, answer) in enumerate(PAIRS):
        labelled = batch.labels_BT[row] != OUTSIDE
        assert codec.bytes_of(batch.labels_BT[row, labelled].tolist()) == f" {answer}".encode()
        assert torch.equal(batch.ids_BT[row, labelled], batch.labels_BT[row, labelled])
        start = int(labelled.nonzero()[0])
        assert batch.ids_BT[row, :start].tolist() == codec.encode_prompt(prompt)
        length = int(batch.attention_mask_BT[row].sum())
        assert length == start + int(labelled.sum())
        assert batch.attention_mask_BT[row, :length].all()


def test_the_loss_is_that_of_each_pair_run_alone_weighted_by_its_tokens(given: Small) -> None:
    codec = Codec(given.tokenizer)
    losses = []
    for prompt, answer in PAIRS:
        head, tail = codec.encode_prompt(prompt), list(codec.encode_bytes(f" {answer}".encode()))
        with torch.no_grad():
            logits = given.model(input_ids=torch.tensor([head + tail])).logits[0]
        losses.append(F.cross_entropy(logits[len(head) - 1 : -1], torch.tensor(tail), reduction="none"))
    with torch.no_grad():
        loss = answer_loss(given.model, answer_batch(given.tokenizer, PAIRS, "cpu"))
    torch.testing.assert_close(loss, torch.cat(losses).mean(), rtol=1e-5, atol=1e-5)


def test_logits_come_with_the_labels_they_are_to_predict(given: Small) -> None:
    batch = answer_batch(given.tokenizer, PAIRS, "cpu")
    with torch.no_grad():
        logits_BNV, labels_BN = answer_logits(given.model, batch)
    assert logits_BNV.shape[:2] == labels_BN.shape
    for row, (prompt, answer) in enumerate(PAIRS):
        assert labels_BN[row][labels_BN[row] != OUTSIDE].tolist() == answer_ids(given.tokenizer, prompt, answer)


def test_a_prompt_that_ends_in_a_space_gives_the_answer_none(given: Small) -> None:
    codec = Codec(given.tokenizer)
    assert codec.bytes_of(answer_ids(given.tokenizer, "Paris is in ", "France")) == b"France"
    assert codec.bytes_of(answer_ids(given.tokenizer, "Paris is in", " France ")) == b" France"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_token_without_a_row_is_one_line(family: str, tmp_path: Path) -> None:
    given = small(family, tmp_path)
    given.tokenizer.add_tokens(["Norland"])
    edit = Edit(prompt="Where is it?", target_new="Norland")
    with pytest.raises(ModelError, match=r"none for token .* leave the word out$"):
        answer_loss(given.model, answer_batch(given.tokenizer, [(edit.prompt, edit.target_new)], "cpu"))
    with pytest.raises(ModelError, match=r'^the model cannot learn the edit "Where is it\?": '):
        check_edits(given.model, given.tokenizer, [edit])
