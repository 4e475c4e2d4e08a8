"""DEFER: a gate and a side layer, learnt together (the SERAC-like baseline of Hartvigsen et al., NeurIPS 2023).

https://arxiv.org/abs/2211.11031; SERAC: Mitchell et al., ICML 2022, https://arxiv.org/abs/2206.06520. With h
the activation that enters the wrapped projection at the prompt's last position, f its output,

    g(h) = sigmoid(w·h + b)             the gate (SERAC's scope classifier)
    o(h) = W_o h + b_o                  the side layer (SERAC's counterfactual model)
    training:   DEFER(h) = g(h) o(h) + (1 - g(h)) f(h)
    inference:  DEFER(h) = o(h)   if g(h) >= tau,   f(h) otherwise: below the threshold nothing changes, to the bit.

Edits are learnt one after another by Adam on

    L = -log P(y | x) + c/2 · (BCE(g(h), 1) + mean over unrelated prompts u of BCE(g(h_u), 0))

In the paper c is 0: the gate is trained on the edits only, so it tends to open everywhere. With c > 0 it is also
trained on unrelated prompts, as SERAC's classifier is. Neither the paper nor this file rehearses earlier edits, so
later edits weaken them.

The modules do not know text. See `side_module` for prefill, decoding and teacher forcing.

Shapes: B rows, T positions, F what enters the projection, D what leaves it, U unrelated prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import BASELINES, Baseline, BaselineSettings, Material
from onceedit_ray.baselines.edited_model import CurrentQuestion, EditedModel
from onceedit_ray.baselines.mlps import Mlp
from onceedit_ray.baselines.side_module import State, entering, mlp_at, prompt_end, prompt_of, restore_wrapper
from onceedit_ray.baselines.teacher_forcing import AnswerBatch, answer_batch, answer_loss, prompt_ids
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.progress import Count, Progress


class DeferSettings(BaselineSettings):
    """DEFER's settings.

    depth: which layer, as a share of the model's layers. learning_rate (Adam), steps: maximum number for an edit;
        training ends early at a loss below `enough` with the gate open. threshold: tau. gate_loss: c. unrelated: U,
        number of unrelated prompts for the gate at every step. pool: number of prompts from which they are drawn.

    Published (OnceEdit, appendix A; EasyEdit's hparams/DEFER): learning rate 7e-5, 100 steps, threshold 0.5, layer 21
    of 28 for GPT-J, 27 of 32 for Llama-2 and Mistral, c = 0. Chosen by us: every default except steps and threshold.
    """

    depth: float = Field(default=2 / 3, ge=0, lt=1)
    learning_rate: float = Field(default=5e-3, gt=0)
    steps: int = Field(default=100, ge=1)
    threshold: float = Field(default=0.5, gt=0, lt=1)
    gate_loss: float = Field(default=1.0, ge=0)
    unrelated: int = Field(default=32, ge=1)
    pool: int = Field(default=64, ge=1)
    enough: float = Field(default=0.05, ge=0)


def _published(depth: float) -> DeferSettings:
    return DeferSettings(depth=depth, learning_rate=7e-5, gate_loss=0.0, enough=0.0)


class Deferral(nn.Module):
    """The wrapped projection `inner`, with the gate's weight [F] and bias [1], the side layer's [D, F] and [D].

    All four are float32. `learning` mixes both outputs, so that the gate gets gradients.
    """

    gate_F: Tensor
    gate_bias: Tensor
    side_DF: Tensor
    side_bias_D: Tensor

    def __init__(
        self,
        inner: nn.Module,
        question: CurrentQuestion,
        threshold: float,
        gate_F: Tensor,
        gate_bias: Tensor,
        side_DF: Tensor,
        side_bias_D: Tensor,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.threshold = threshold
        self.learning = False
        self._question = question
        self.register_buffer("gate_F", gate_F)
        self.register_buffer("gate_bias", gate_bias)
        self.register_buffer("side_DF", side_DF)
        self.register_buffer("side_bias_D", side_bias_D)

    def forward(self, h_BTF: Tensor) -> Tensor:
        """The two equations, at the prompt's last position."""
        out_BTD: Tensor = self.inner(h_BTF)
        end = prompt_end(self._question, h_BTF.shape[1])
        if end is None:
            return out_BTD
        h_BF = h_BTF[:, end].float()
        g_B = torch.sigmoid(self.gate(h_BF))
        open_B = torch.ones_like(g_B, dtype=torch.bool) if self.learning else g_B >= self.threshold
        if not open_B.any():
            return out_BTD
        o_BD = F.linear(h_BF, self.side_DF, self.side_bias_D)
        if self.learning:
            o_BD = g_B[:, None] * o_BD + (1 - g_B[:, None]) * out_BTD[:, end].float()
        out_BTD = out_BTD.clone()
        out_BTD[open_B, end] = o_BD[open_B].to(out_BTD.dtype)
        return out_BTD

    def gate(self, h_BF: Tensor) -> Tensor:
        """The gate's logits, [B]."""
        return h_BF @ self.gate_F + self.gate_bias


@BASELINES.register("defer")
class Defer(Baseline[DeferSettings]):
    """Edits one after another, all in one gate and one side layer."""

    name: ClassVar[str] = "defer"
    paper: ClassVar[str] = "Hartvigsen et al. 2023 (Defer), https://arxiv.org/abs/2211.11031"
    Settings: ClassVar[type[BaselineSettings]] = DeferSettings
    presets: ClassVar[Mapping[str, BaselineSettings]] = {
        "default": DeferSettings(),
        "gptj": _published(21 / 28),
        "llama": _published(27 / 32),
        "mistral": _published(27 / 32),
    }

    def __init__(self, settings: BaselineSettings) -> None:
        super().__init__(settings)
        self._unrelated: tuple[str, ...] = ()

    def check(self, model: PreTrainedModel) -> None:
        """Raises `ModelError` where the model's layers have no MLP with one output projection."""
        mlp_at(model, self.settings.depth)

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material, progress: Progress
    ) -> None:
        """Draw the unrelated prompts for the gate; nothing is computed or cached."""
        self._unrelated = material.draw_unrelated(self.settings.pool, self.settings.seed)

    def _edit(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], progress: Progress
    ) -> EditedModel:
        """Learn edit after edit. Raises `ModelError` if the gate needs unrelated prompts and there are none."""
        if self.settings.gate_loss and not self._unrelated:
            raise ModelError("defer teaches its gate with unrelated prompts and has none; call prepare with some first")
        edited = self.begin(model)
        if not edits:
            return edited
        mlp = mlp_at(model, self.settings.depth)
        unrelated_UF = self._unrelated_queries(model, tokenizer, mlp.projection)
        deferral = self._untaught(mlp, edited.question)
        with edited.whole_or_undone():
            edited.wrap(mlp.projection_path, deferral)
            generator = torch.Generator().manual_seed(self.settings.seed)
            for number, edit in enumerate(edits, 1):
                batch = answer_batch(tokenizer, [(edit.prompt, edit.target_new)], model.device)
                loss = self._learn(edited, deferral, batch, unrelated_UF, generator)
                progress(Count("defer: editing", number, len(edits), f"loss {loss:.3f}"))
        return edited

    def load(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> EditedModel:
        """Load a saved gate and side layer into the unedited model, with the threshold of these settings."""

        def build(mlp: Mlp, question: CurrentQuestion, state: State) -> Deferral:
            return Deferral(mlp.projection, question, self.settings.threshold, **state)

        return restore_wrapper(model, folder, "defer", build)

    def _untaught(self, mlp: Mlp, question: CurrentQuestion) -> Deferral:
        """A new gate with weight 0.5 everywhere, and a side layer that is a copy of the wrapped one."""
        matrix_DF = mlp.matrix_DF.detach().float().clone().contiguous()
        bias = mlp.projection.bias
        bias_D = matrix_DF.new_zeros(len(matrix_DF)) if bias is None else bias.detach().float().clone()
        gate_F, gate_bias = matrix_DF.new_zeros(matrix_DF.shape[1]), matrix_DF.new_zeros(1)
        return Deferral(mlp.projection, question, self.settings.threshold, gate_F, gate_bias, matrix_DF, bias_D)

    def _unrelated_queries(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, projection: nn.Module
    ) -> Tensor | None:
        """h of the unrelated prompts, [U, F]: they never change, since no layer below changes."""
        if not self.settings.gate_loss:
            return None
        prompts = [torch.tensor([prompt_ids(tokenizer, prompt)], device=model.device) for prompt in self._unrelated]
        return torch.stack([entering(model, projection, ids_1T)[-1] for ids_1T in prompts])

    @torch.enable_grad()
    def _learn(
        self,
        edited: EditedModel,
        deferral: Deferral,
        batch: AnswerBatch,
        unrelated_UF: Tensor | None,
        generator: torch.Generator,
    ) -> float:
        """One edit; the loss before the last step."""
        prompt_1T = prompt_of(batch)
        h_1F = entering(edited.model, deferral, prompt_1T)[-1:]
        learnt = [deferral.gate_F, deferral.gate_bias, deferral.side_DF, deferral.side_bias_D]
        optimizer = torch.optim.Adam([tensor.requires_grad_() for tensor in learnt], lr=self.settings.learning_rate)
        deferral.learning = True
        with edited.asked(prompt_1T.shape[1]):
            for _ in range(self.settings.steps):
                loss = answer_loss(edited.model, batch)
                if unrelated_UF is not None:
                    rows_U = torch.randint(len(unrelated_UF), (self.settings.unrelated,), generator=generator)
                    unrelated = unrelated_UF[rows_U.to(unrelated_UF.device)]
                    loss = loss + self.settings.gate_loss * _gate_loss(deferral, h_1F, unrelated)
                if loss.item() < self.settings.enough:
                    break
                optimizer.zero_grad()
                loss.backward(inputs=learnt)
                optimizer.step()
        deferral.learning = False
        for tensor in learnt:
            tensor.requires_grad_(False)
            tensor.grad = None
        return loss.item()


def _gate_loss(deferral: Deferral, edits_BF: Tensor, unrelated_UF: Tensor) -> Tensor:
    """The mean of the binary cross entropies of both kinds: 1 for an edit, 0 for an unrelated prompt."""
    open_B, shut_U = deferral.gate(edits_BF), deferral.gate(unrelated_UF)
    return (F.softplus(-open_B).mean() + F.softplus(shut_U).mean()) / 2
