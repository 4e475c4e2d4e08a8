"""GRACE: radii that grow on agreement and split on conflict, and nothing changed far from every key."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, OPTConfig

from onceedit_ray.baselines.edited_model import CurrentQuestion
from onceedit_ray.baselines.methods.grace import Codebook, Grace, GraceSettings
from onceedit_ray.errors import ModelError
from tests.small_edits import (
    EDITS,
    FAR,
    LoadedModel,
    assert_three_ways_agree,
    greedy,
    ids_of,
    logits_of,
)

SETTINGS = GraceSettings(depth=0.0)  # layer 0 of two: what is replaced there reaches later positions too


def empty_codebook() -> Codebook:
    torch.manual_seed(0)
    return Codebook(nn.Linear(2, 2), CurrentQuestion(), torch.empty(0, 2), torch.empty(0, 2), torch.empty(0))


def room(book: Codebook, answers: list[str], key: tuple[float, float], answer: str) -> int:
    value = torch.full((2,), float(len(answers) + 1))
    return book.make_room(torch.tensor(key), answer, answers, 1.0, value)


def test_radius_grows_on_agreement_and_splits_on_conflict() -> None:
    book, answers = empty_codebook(), []
    assert room(book, answers, (0.0, 0.0), "Paris") == 0
    assert room(book, answers, (1.5, 0.0), "Paris") == 0  # 1.5 <= 1 + 1: one entry, grown to reach it
    assert book.radii_K.tolist() == [1.5]
    assert room(book, answers, (0.5, 0.0), "Paris") == 0  # within: nothing shrinks
    assert book.radii_K.tolist() == [1.5]
    assert room(book, answers, (2.0, 0.0), "Rome") == 1  # 2.0 <= 1.5 + 1: half the distance for both
    assert book.radii_K.tolist() == [1.0, 1.0]
    assert room(book, answers, (2.0, 9.0), "Rome") == 2  # 9 > 1 + 1: too far to be the same, in spite of its answer
    assert book.radii_K.tolist() == [1.0, 1.0, 1.0]
    assert answers == ["Paris", "Rome", "Rome"]


def test_another_answer_to_the_same_key_takes_its_entry_over() -> None:
    book, answers = empty_codebook(), []
    room(book, answers, (3.0, 4.0), "Paris")
    assert room(book, answers, (3.0, 4.0), "Rome") == 0
    assert answers == ["Rome"] and book.radii_K.tolist() == [1.0]


def test_nearest_key_within_its_radius_replaces_the_last_position_alone() -> None:
    book, answers = empty_codebook(), []
    room(book, answers, (0.0, 0.0), "Paris")
    room(book, answers, (1.6, 0.0), "Rome")  # radii 0.8 and 0.8
    rows = [(0.7, 0.0), (0.9, 0.0), (0.0, 0.81), (1.6, 0.8)]
    h_BTF = torch.tensor([[(0.0, 0.0), row] for row in rows])
    out, plain = book(h_BTF), book.inner(h_BTF)
    assert torch.equal(out[:, 0], plain[:, 0])  # at a key, but no prompt ends there
    assert out[0, 1].tolist() == [1.0, 1.0]
    assert out[1, 1].tolist() == [2.0, 2.0]
    assert torch.equal(out[2, 1], plain[2, 1])  # 0.81 from its nearest key: outside
    assert out[3, 1].tolist() == [2.0, 2.0]  # on the rim
    book._question.prompt_tokens = 1
    assert book(h_BTF)[2].tolist() == [[1.0, 1.0], plain[2, 1].tolist()]
    assert torch.equal(book(h_BTF[:, :1]), book.inner(h_BTF[:, :1]))  # one position: a decoding step


def test_edits_are_learnt_and_far_inputs_stay_identical(open_fresh: Callable[[], LoadedModel]) -> None:
    model, tokenizer = open_fresh()
    far = tokenizer(FAR).input_ids
    before = logits_of(model, far)
    lines: list[str] = []
    edited = Grace(SETTINGS).edit(model, tokenizer, EDITS, lines.append)
    assert len(lines) == len(EDITS)
    for edit in EDITS:
        prompt, answer = ids_of(tokenizer, edit)
        assert greedy(edited, prompt, len(answer)) == answer
        assert_three_ways_agree(edited, tokenizer, prompt)
    with edited.asked(len(far)):
        assert torch.equal(logits_of(model, far), before)


def test_conflict_between_two_prompts_keeps_both_answers(open_fresh: Callable[[], LoadedModel]) -> None:
    """A radius that would swallow the other prompt: the split keeps the two apart."""
    model, tokenizer = open_fresh()
    wide = SETTINGS.model_copy(update={"radius": 2.0})
    edited = Grace(wide).edit(model, tokenizer, EDITS[:2], lambda line: None)
    (book,) = [module for module in model.modules() if isinstance(module, Codebook)]
    apart = float((book.keys_KF[0] - book.keys_KF[1]).norm())
    assert book.radii_K.tolist() == pytest.approx([apart / 2] * 2)
    for edit in EDITS[:2]:
        prompt, answer = ids_of(tokenizer, edit)
        assert greedy(edited, prompt, len(answer)) == answer


def test_layer_without_an_mlp_of_its_own_is_refused_before_any_work() -> None:
    config = OPTConfig(
        vocab_size=20, hidden_size=8, ffn_dim=16, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=8
    )
    with pytest.raises(ModelError, match="is given no rows of positions"):
        Grace(SETTINGS).check(AutoModelForCausalLM.from_config(config))
