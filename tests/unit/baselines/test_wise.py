"""WISE: routing by activation, shards that merge without losing each other, and TIES by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from onceedit_ray.baselines.edited_model import CurrentQuestion
from onceedit_ray.baselines.methods.wise import SideMemory, Wise, WiseSettings, margin_loss, random_mask, ties
from tests.small_edits import (
    EDITS,
    FAR,
    LoadedModel,
    assert_three_ways_agree,
    greedy,
    ids_of,
    logits_of,
    prepared,
)

SETTINGS = WiseSettings(depth=0.0, learning_rate=0.03, steps=40)


def test_ties_trims_elects_signs_and_averages_those_that_agree() -> None:
    one = torch.tensor([[4.0, -3.0, 2.0, 0.1]])
    two = torch.tensor([[-1.0, -5.0, 0.2, 6.0]])
    # All kept: 4 - 1 > 0 leaves the 4 alone; -3 and -5 agree; 2 and 0.2 agree; 0.1 and 6 agree.
    torch.testing.assert_close(ties([one, two], density=1.0), torch.tensor([[4.0, -4.0, 1.1, 3.05]]))
    # Half kept: (4, -3, 0, 0) and (0, -5, 0, 6). A trimmed entry has no say and no weight in the mean.
    torch.testing.assert_close(ties([one, two], density=0.5), torch.tensor([[4.0, -4.0, 0.0, 6.0]]))
    # The sign is the one of the sum, not of the majority; what cancels out is left out.
    three = [torch.tensor([[value, other]]) for value, other in ((1.0, 2.0), (1.0, -2.0), (-3.0, 0.0))]
    torch.testing.assert_close(ties(three, density=1.0), torch.tensor([[-3.0, 0.0]]))
    # One shard is what it was, as long as the density keeps all that its mask allowed.
    sparse = torch.tensor([[0.0, 7.0, 0.0, 0.0]])
    assert torch.equal(ties([sparse], density=0.5), sparse)


def test_masks_hold_the_share_rho_and_differ_between_shards() -> None:
    first, second = (random_mask(torch.Size([100, 100]), 0.2, seed) for seed in (0, 1))
    assert first.sum() == second.sum() == 2000
    assert (first & second).float().mean().item() == pytest.approx(0.2**2, abs=0.01)
    assert torch.equal(first, random_mask(torch.Size([100, 100]), 0.2, 0))


def test_margin_loss_is_zero_outside_its_margins_only() -> None:
    def loss(edit: float, *unrelated: float) -> float:
        return margin_loss(torch.tensor(edit), torch.tensor(unrelated), 5.0, 20.0, 10.0).item()

    assert loss(20.0, 5.0) == 0.0
    assert loss(20.0, 7.0) == 2.0  # above alpha
    assert loss(17.0, 5.0) == 3.0  # below beta
    assert loss(12.0, 6.0) == 1.0 + 8.0 + 4.0  # and a gap of 6, not gamma's 10
    assert loss(20.0, 5.0, 7.0) == 1.0  # the mean over unrelated prompts


def hand_made(question: CurrentQuestion) -> SideMemory:
    """W' - W doubles the first number and drops the second: Δ_act is 2 |a1|, on average; ε is 3."""
    torch.manual_seed(0)
    return SideMemory(nn.Linear(2, 2), question, torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([3.0]))


def test_prompt_alone_decides_and_its_answer_follows() -> None:
    question = CurrentQuestion()
    memory = hand_made(question)
    near = torch.tensor([[(1.0, 5.0), (2.1, 5.0)]])  # (2 + 4.2) / 2 > 3
    far = torch.tensor([[(1.0, 5.0), (1.9, 5.0)]])  # (2 + 3.8) / 2 < 3
    token = torch.tensor([[(9.0, 9.0)]])
    side = memory.inner(near) + near @ memory.delta_DF.T
    torch.testing.assert_close(memory(near), side)
    torch.testing.assert_close(memory(token), memory.inner(token) + token @ memory.delta_DF.T)
    assert torch.equal(memory(far), memory.inner(far))
    assert torch.equal(memory(token), memory.inner(token))
    question.prompt_tokens = 2  # the answer's 9 counts for nothing
    with_answer = torch.cat([far, token], dim=1)
    assert torch.equal(memory(with_answer), memory.inner(with_answer))
    both = torch.cat([near, far])
    torch.testing.assert_close(memory(both)[0], side[0])
    torch.testing.assert_close(memory(both)[1], memory.inner(far)[0])


def test_merging_two_shards_keeps_both_and_unrelated_inputs_stay_identical(
    open_fresh: Callable[[], LoadedModel], tmp_path: Path
) -> None:
    model, tokenizer = open_fresh()
    far = tokenizer(FAR).input_ids
    before = logits_of(model, far)
    wise = prepared(Wise(SETTINGS), (model, tokenizer), tmp_path)
    lines: list[str] = []
    edited = wise.edit(model, tokenizer, EDITS[:2], lines.append)
    assert ["shard 1" in str(line) for line in lines] == [True, False]
    for edit in EDITS[:2]:
        prompt, answer = ids_of(tokenizer, edit)
        assert greedy(edited, prompt, len(answer)) == answer
        assert_three_ways_agree(edited, tokenizer, prompt)
    with edited.asked(len(far)):
        assert torch.equal(logits_of(model, far), before)


def test_threshold_is_a_share_of_the_smallest_activation_of_an_edit(
    open_fresh: Callable[[], LoadedModel], tmp_path: Path
) -> None:
    model, tokenizer = open_fresh()
    wise = prepared(Wise(SETTINGS.model_copy(update={"steps": 3})), (model, tokenizer), tmp_path)
    edited = wise.edit(model, tokenizer, EDITS, lambda line: None)
    (memory,) = [module for module in model.modules() if isinstance(module, SideMemory)]
    seen: list[torch.Tensor] = []
    memory.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    for edit in EDITS:
        logits_of(edited.model, ids_of(tokenizer, edit)[0])
    smallest = min((a_NF @ memory.delta_DF.T).norm(dim=-1).mean().item() for a_NF in seen)
    assert memory.epsilon.item() == pytest.approx(0.88 * smallest, rel=1e-4)
