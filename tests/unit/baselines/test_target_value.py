"""The optimised vector: where it is added, its bound, and the prefixes used in the search."""

from __future__ import annotations

import torch

from onceedit_ray.baselines.activations import at, module_inputs, module_outputs, shifted
from onceedit_ray.baselines.context_templates import context_prefixes
from onceedit_ray.baselines.mlps import find_mlps
from onceedit_ray.baselines.target_value import TargetSettings, bare_output, keys_of, locate, target_shift
from onceedit_ray.baselines.teacher_forcing import answer_loss
from onceedit_ray.models.codec import Codec
from tests.baseline_models import EDITS, Small

SETTINGS = TargetSettings(steps=15, decay=0.0, essence=0.0, clamp=10.0)
PREFIXES = ["", "I was there. "]


def test_the_vector_makes_the_answer_likelier_after_every_prefix(given: Small) -> None:
    module = find_mlps(given.model)[0].projection
    located = locate(given.model, given.tokenizer, EDITS[0], PREFIXES)
    delta_D = target_shift(given.model, module, located, SETTINGS)
    assert delta_D.dtype == torch.float32 and not delta_D.requires_grad
    with torch.no_grad():
        own = answer_loss(given.model, located.answers)
        with shifted(module, located.index_B, delta_D.expand(2, -1)):
            now = answer_loss(given.model, located.answers)
    assert now < own - 0.5


def test_its_length_is_clamped_to_the_outputs(llama: Small) -> None:
    module = find_mlps(llama.model)[0].projection
    located = locate(llama.model, llama.tokenizer, EDITS[0], PREFIXES)
    v_D = bare_output(llama.model, module, located)
    delta_D = target_shift(llama.model, module, located, SETTINGS.model_copy(update={"clamp": 0.25}))
    torch.testing.assert_close(delta_D.norm(), 0.25 * v_D.norm(), rtol=1e-5, atol=0)


def test_decay_and_essence_hold_it_back(llama: Small) -> None:
    module = find_mlps(llama.model)[0].projection
    located = locate(llama.model, llama.tokenizer, EDITS[0], PREFIXES)
    free = target_shift(llama.model, module, located, SETTINGS)

    def drift(delta_D: torch.Tensor) -> float:
        assert located.essence is not None
        ids_1T, index_1 = located.essence
        with torch.no_grad():
            own = llama.model(input_ids=ids_1T).logits[0, -1].log_softmax(-1)
            with shifted(module, index_1, delta_D[None]):
                now = llama.model(input_ids=ids_1T).logits[0, -1].log_softmax(-1)
        return float((now.exp() * (now - own)).sum())

    kept = target_shift(llama.model, module, located, SETTINGS.model_copy(update={"essence": 100.0}))
    assert drift(kept) < 0.5 * drift(free)
    short = target_shift(llama.model, module, located, SETTINGS.model_copy(update={"decay": 1e5}))
    assert short.norm() < 0.5 * free.norm()


def test_an_edit_without_a_subject_is_made_at_the_prompts_end(llama: Small) -> None:
    located = locate(llama.model, llama.tokenizer, EDITS[2], PREFIXES)
    assert located.essence is None
    prompt = Codec(llama.tokenizer).encode_prompt(EDITS[2].prompt)
    assert int(located.index_B[0]) == len(prompt) - 1
    settings = SETTINGS.model_copy(update={"essence": 1.0})
    delta_D = target_shift(llama.model, find_mlps(llama.model)[0].projection, located, settings)
    assert delta_D.norm() > 0


def test_there_is_a_key_for_each_prefix_and_the_projection_maps_it(given: Small) -> None:
    mlp = find_mlps(given.model)[0]
    codec = Codec(given.tokenizer)
    located = locate(given.model, given.tokenizer, EDITS[1], PREFIXES)
    keys = []
    for prefix, index in zip(PREFIXES, located.index_B.tolist(), strict=True):
        ids_1T = torch.tensor([codec.encode_prompt(prefix + EDITS[1].prompt)])
        (k_1TF,) = module_inputs(given.model, [mlp.projection], ids_1T, torch.ones_like(ids_1T))
        keys.append(k_1TF[0, index])
    torch.testing.assert_close(keys_of(given.model, mlp, located), torch.stack(keys), rtol=1e-4, atol=1e-5)
    bias = getattr(mlp.projection, "bias", None)
    v_D = mlp.matrix_DF.detach() @ keys[0] + (0 if bias is None else bias.detach())
    torch.testing.assert_close(bare_output(given.model, mlp.projection, located), v_D, rtol=1e-4, atol=1e-4)


def test_a_shift_moves_one_position_of_each_row_and_the_hook_goes(given: Small) -> None:
    module = find_mlps(given.model)[1].projection
    ids_BT, mask_BT = torch.tensor([[5, 6, 7], [8, 9, 10]]), torch.ones(2, 3, dtype=torch.long)
    index_B = torch.tensor([2, 0])
    (own,) = module_outputs(given.model, [module], ids_BT, mask_BT)
    shift_BD = torch.stack([torch.ones(own.shape[-1]), 2 * torch.ones(own.shape[-1])])
    with shifted(module, index_B, shift_BD):
        (now,) = module_outputs(given.model, [module], ids_BT, mask_BT)
    expected = torch.zeros_like(own)
    expected[0, 2], expected[1, 0] = 1, 2
    torch.testing.assert_close(now - own, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(at(now, index_B) - at(own, index_B), shift_BD, rtol=1e-4, atol=1e-4)
    (after,) = module_outputs(given.model, [module], ids_BT, mask_BT)
    assert torch.equal(after, own)


def test_prefixes_are_empty_then_sampled_and_the_same_for_a_seed(given: Small) -> None:
    lengths = ((3, 2), (6, 4))
    prefixes = context_prefixes(given.model, given.tokenizer, lengths, seed=0)
    assert prefixes == context_prefixes(given.model, given.tokenizer, lengths, seed=0)
    assert prefixes != context_prefixes(given.model, given.tokenizer, lengths, seed=1)
    assert prefixes[0] == "" and len(prefixes) == 7
    assert all(prefix.endswith(". ") and len(prefix) > 4 for prefix in prefixes[1:])
    assert context_prefixes(given.model, given.tokenizer, (), seed=0) == [""]
