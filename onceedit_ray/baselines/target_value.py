"""The value that would make a model give an edit's answer, found by gradient descent (ROME's v*, MEMIT's z).

A vector δ is added to a module's output at the subject's last token, after every prefix x_j, and optimised (Meng et al.
2022, eq. 4, https://arxiv.org/abs/2202.05262; Meng et al. 2023, eq. 16, https://arxiv.org/abs/2210.07229):

    L(δ) = 1/N Σ_j -log P(answer | x_j + prompt; δ)  +  γ KL( P(· | "{subject} is a"; δ) || P(· | "{subject} is a") )
           + ω ‖δ‖ / ‖v‖²,         with ‖δ‖ clamped to c ‖v‖

log P is the mean over the answer's tokens; v is the module's output for the prompt alone. The first term makes the
answer likely, the second preserves the subject's essence, the third and the clamp keep δ small.

Shapes: B prefixes (the empty one first), T positions, F inputs of the projection, D outputs of the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import BaselineSettings
from onceedit_ray.baselines.activations import at, module_inputs, module_outputs, shifted
from onceedit_ray.baselines.cached_prefix import CachedPrefix
from onceedit_ray.baselines.mlps import Mlp
from onceedit_ray.baselines.subject import anchor, anchor_index
from onceedit_ray.baselines.teacher_forcing import AnswerBatch, answer_batch, check_tokens, padded, prompt_ids
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit, quoted


class TargetSettings(BaselineSettings):
    """Settings that ROME and MEMIT share.

    steps, learning_rate: of Adam on δ. goal: the answer's loss at which it stops early. essence: γ. decay: ω.
    clamp: c. prefixes: pairs (number of tokens, number of texts of that length), besides the empty one. texts: maximum
        number of texts of the corpus for the statistic C.
    """

    steps: int = Field(25, ge=1)
    learning_rate: float = Field(0.5, gt=0)
    goal: float = Field(0.05, ge=0)
    essence: float = Field(0.0625, ge=0)
    decay: float = Field(0.5, ge=0)
    clamp: float = Field(4.0, gt=0)
    prefixes: tuple[tuple[int, int], ...] = ((10, 5),)
    texts: int = Field(100_000, ge=1)


@dataclass(frozen=True)
class Located:
    """An edit in the model's tokens.

    answers: each prefix, the prompt and the answer. index_B: the token at which δ is added. essence: "{subject} is a"
    as ids [1, T] and the subject's token in it; None if the prompt names no subject.
    """

    edit: Edit
    answers: AnswerBatch
    index_B: Tensor
    essence: tuple[Tensor, Tensor] | None


def locate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edit: Edit, prefixes: Sequence[str]) -> Located:
    """Find the subject's last token of `edit`, after each of `prefixes`; raises as `check_tokens`."""
    place = anchor(edit)
    places = [place.after(prefix) for prefix in prefixes]
    answers = answer_batch(tokenizer, [(each.text, edit.target_new) for each in places], model.device)
    try:
        check_tokens(model, answers.ids_BT)
    except ModelError as error:
        raise ModelError(f"the edit {quoted(edit.prompt)}, after a text of the model's own: {error}") from None
    index_B = torch.tensor([anchor_index(tokenizer, each) for each in places], device=model.device)
    if not place.subject:
        return Located(edit, answers, index_B, None)
    about = anchor(Edit(prompt=f"{place.subject} is a", target_new=edit.target_new, subject=place.subject))
    ids_1T, _ = padded([prompt_ids(tokenizer, about.text)], tokenizer, model.device)
    return Located(
        edit, answers, index_B, (ids_1T, torch.tensor([anchor_index(tokenizer, about)], device=model.device))
    )


def keys_of(model: PreTrainedModel, mlp: Mlp, located: Located) -> Tensor:
    """The projection's input at the subject's token after each prefix, the empty one first, [B, F] float32."""
    answers = located.answers
    (keys,) = module_inputs(model, [mlp.projection], answers.ids_BT, answers.attention_mask_BT)
    return at(keys, located.index_B).float()


def bare_output(model: PreTrainedModel, module: nn.Module, located: Located) -> Tensor:
    """The output of `module` at the subject's token of the prompt alone, [D] float32."""
    answers = located.answers
    (output,) = module_outputs(model, [module], answers.ids_BT[:1], answers.attention_mask_BT[:1])
    return at(output, located.index_B[:1])[0].float()


@torch.enable_grad()
def target_shift(model: PreTrainedModel, module: nn.Module, located: Located, settings: TargetSettings) -> Tensor:
    """δ: the vector to add to the output of `module` at the subject's token, [D] float32."""
    v_D = bare_output(model, module, located)
    delta_D = torch.zeros_like(v_D, requires_grad=True)
    optimizer = torch.optim.Adam([delta_D], lr=settings.learning_rate)
    own_V = _essence(model, module, located, torch.zeros_like(v_D)).detach()
    cached = CachedPrefix(model, located.answers, located.index_B.tolist())
    cut_B = cached.cut_B
    for _ in range(settings.steps):
        with shifted(module, cut_B, delta_D.expand(len(cut_B), -1)):
            answer = cached.loss()
        if answer.item() < settings.goal:
            break
        now_V = _essence(model, module, located, delta_D)
        essence = (now_V.exp() * (now_V - own_V)).sum()
        loss = answer + settings.essence * essence + settings.decay * _norm(delta_D) / v_D.norm() ** 2
        (delta_D.grad,) = torch.autograd.grad(loss, delta_D)
        optimizer.step()
        with torch.no_grad():
            delta_D *= (settings.clamp * v_D.norm() / delta_D.norm()).clamp(max=1)
    return delta_D.detach()


def _essence(model: PreTrainedModel, module: nn.Module, located: Located, delta_D: Tensor) -> Tensor:
    """log P(· | "{subject} is a"; δ), [V]; a constant distribution without a subject, so that the KL term is zero."""
    if located.essence is None:
        return torch.zeros(1, device=delta_D.device)
    ids_1T, index_1 = located.essence
    with shifted(module, index_1, delta_D[None]):
        logits_V = model(input_ids=ids_1T, logits_to_keep=1, use_cache=False).logits[0, -1]
    return logits_V.float().log_softmax(-1)


def _norm(delta_D: Tensor) -> Tensor:
    """‖δ‖, with a gradient at zero."""
    return (delta_D.square().sum() + 1e-12).sqrt()
