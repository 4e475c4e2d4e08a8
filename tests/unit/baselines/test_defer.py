"""DEFER: below the gate's threshold nothing changes, to the bit; above it the side layer answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from onceedit_ray.baselines.edited_model import CurrentQuestion
from onceedit_ray.baselines.methods.defer import Defer, Deferral, DeferSettings
from tests.small_edits import (
    EDITS,
    UNRELATED,
    LoadedModel,
    assert_three_ways_agree,
    greedy,
    ids_of,
    logits_of,
    prepared,
)

SETTINGS = DeferSettings(depth=0.0, learning_rate=0.02)


def hand_made() -> Deferral:
    """g(h) = sigmoid(h1 - 1), o(h) = (h1 + h2, 10), tau = 0.5: open from h1 = 1 on."""
    torch.manual_seed(0)
    side_DF, bias_D = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([0.0, 10.0])
    return Deferral(
        nn.Linear(2, 2), CurrentQuestion(), 0.5, torch.tensor([1.0, 0.0]), torch.tensor([-1.0]), side_DF, bias_D
    )


def test_side_layer_answers_at_the_prompts_end_from_the_threshold_on() -> None:
    layer = hand_made()
    h_BTF = torch.tensor([[(5.0, 5.0), (1.0, 2.0)], [(5.0, 5.0), (0.999, 2.0)]])
    out, plain = layer(h_BTF), layer.inner(h_BTF)
    assert out[0, 1].tolist() == [3.0, 10.0]
    assert torch.equal(out[0, 0], plain[0, 0])  # the gate would open, but no prompt ends there
    assert torch.equal(out[1], plain[1])
    assert torch.equal(layer(h_BTF[1:]), layer.inner(h_BTF[1:]))
    assert torch.equal(layer(h_BTF[:, :1]), layer.inner(h_BTF[:, :1]))  # one position: a decoding step


def test_learning_mixes_both_answers_by_the_gate() -> None:
    layer = hand_made()
    layer.learning = True
    h_BTF = torch.tensor([[(0.0, 0.0), (0.0, 2.0)]])
    g = 1 / (1 + torch.e)  # sigmoid(-1)
    expected = g * torch.tensor([2.0, 10.0]) + (1 - g) * layer.inner(h_BTF)[0, 1]
    torch.testing.assert_close(layer(h_BTF)[0, 1], expected)


def test_one_edit_is_learnt_and_unrelated_inputs_stay_identical(
    open_fresh: Callable[[], LoadedModel], tmp_path: Path
) -> None:
    model, tokenizer = open_fresh()
    far = [tokenizer(text).input_ids for text in UNRELATED]
    before = [logits_of(model, ids) for ids in far]
    defer = prepared(Defer(SETTINGS), (model, tokenizer), tmp_path)
    edited = defer.edit(model, tokenizer, EDITS[:1], lambda line: None)
    prompt, answer = ids_of(tokenizer, EDITS[0])
    assert greedy(edited, prompt, len(answer)) == answer
    assert_three_ways_agree(edited, tokenizer, prompt)
    same = 0
    for ids, logits in zip(far, before, strict=True):
        with edited.asked(len(ids)):
            same += torch.equal(logits_of(model, ids), logits)
    assert same >= 0.9 * len(far)


def test_without_a_gate_loss_the_edits_alone_teach_the_gate(open_fresh: Callable[[], LoadedModel]) -> None:
    """As in the paper: no unrelated prompts are needed, and the gate opens for the edit."""
    model, tokenizer = open_fresh()
    defer = Defer(SETTINGS.model_copy(update={"gate_loss": 0.0}))
    edited = defer.edit(model, tokenizer, EDITS[:1], lambda line: None)
    prompt, answer = ids_of(tokenizer, EDITS[0])
    assert greedy(edited, prompt, len(answer)) == answer
