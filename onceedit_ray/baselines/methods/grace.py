"""GRACE: a codebook of keys and values at one layer, each key with a radius (Hartvigsen et al., NeurIPS 2023).

https://arxiv.org/abs/2211.11031, Algorithm 1. With h the activation that enters the wrapped projection at the
prompt's last position, f its output, and i* the entry whose key is nearest to h,

    GRACE(h) = v_i*   if d(h, k_i*) <= eps_i*,   f(h) otherwise          d: the Euclidean distance

Other positions, and every input far from all keys, are unchanged bit for bit. An edit (h, y) with d = d(h, k_i*)

    adds      (h, v, eps_init)            if there is no entry with d <= eps_i* + eps_init
    expands   eps_i* = max(eps_i*, d)     if the answer of i* is y
    splits    eps_i* = d / 2, and adds (h, v, d / 2)   if it is another answer

and v is learnt by gradient descent on -log P(y | x), all other parameters frozen. Beyond the paper: if an edit has the
same key as an entry but another answer, the entry gets the new answer, since no radius can separate the two.

The codebook does not know text. See `side_module` for prefill, decoding and teacher forcing.

Shapes: B rows, T positions, F what enters the projection, D what leaves it, K entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import BASELINES, Baseline, BaselineSettings
from onceedit_ray.baselines.edited_model import CurrentQuestion, EditedModel
from onceedit_ray.baselines.mlps import Mlp
from onceedit_ray.baselines.side_module import State, entering, mlp_at, prompt_end, prompt_of, restore_wrapper
from onceedit_ray.baselines.teacher_forcing import AnswerBatch, answer_batch, answer_loss
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.progress import Count, Progress

# Two passes over the same prompt differ by rounding; keys nearer than this share of their norm count as the same key.
SAME_KEY = 1e-4


class GraceSettings(BaselineSettings):
    """GRACE's settings.

    depth: which layer, as a share of the model's layers.
    radius: eps_init, a distance. learning_rate: Adam's. If `relative`, both are relative to the model's activations,
        whose size differs a hundredfold between models: to the new key's norm, and to the root mean square of the
        initial value.
    start: the initial value: the projection's own output ("warm"), or random numbers in [0, 1) ("cold"). steps: maximum
        number for a value; training ends early at a loss below `enough`.

    Published (EasyEdit's hparams/GRACE for GPT-J, Llama-2, GPT2-XL and Qwen2.5; Adam and 100 steps in the authors'
    own): radius 1.0, learning rate 1.0, a cold start; layer 25 of 28 and 200 steps for GPT-J, 35 of 48 and 200 for
    GPT2-XL (its other projection there), 18 of 28 and 50 for Qwen2.5, 27 of 32 and 50 for Llama. Chosen by us: 100
    steps for Llama, Llama's settings for Mistral, `enough`, and every default.
    """

    depth: float = Field(default=2 / 3, ge=0, lt=1)
    radius: float = Field(default=0.05, gt=0)
    learning_rate: float = Field(default=1.0, gt=0)
    relative: bool = True
    start: Literal["warm", "cold"] = "warm"
    steps: int = Field(default=100, ge=1)
    enough: float = Field(default=0.05, gt=0)


def _published(depth: float, steps: int) -> GraceSettings:
    return GraceSettings(depth=depth, radius=1.0, relative=False, start="cold", learning_rate=1.0, steps=steps)


class Codebook(nn.Module):
    """The wrapped projection `inner`, with keys [K, F], values [K, D] and radii [K], float32."""

    keys_KF: Tensor
    values_KD: Tensor
    radii_K: Tensor

    def __init__(
        self, inner: nn.Module, question: CurrentQuestion, keys_KF: Tensor, values_KD: Tensor, radii_K: Tensor
    ):
        super().__init__()
        self.inner = inner
        self._question = question
        self.register_buffer("keys_KF", keys_KF)
        self.register_buffer("values_KD", values_KD)
        self.register_buffer("radii_K", radii_K)

    def forward(self, h_BTF: Tensor) -> Tensor:
        """GRACE(h) at the prompt's last position."""
        out_BTD: Tensor = self.inner(h_BTF)
        end = prompt_end(self._question, h_BTF.shape[1])
        if end is None or not len(self.keys_KF):
            return out_BTD
        d_BK = self.distances(h_BTF[:, end])
        d_B, nearest_B = d_BK.min(dim=-1)
        hit_B = d_B <= self.radii_K[nearest_B]
        if not hit_B.any():
            return out_BTD
        out_BTD = out_BTD.clone()
        out_BTD[hit_B, end] = self.values_KD[nearest_B[hit_B]].to(out_BTD.dtype)
        return out_BTD

    def distances(self, h_BF: Tensor) -> Tensor:
        """From each row to each key, [B, K]: from differences, since products lose small distances to rounding."""
        return (h_BF.float()[:, None] - self.keys_KF).norm(dim=-1)

    def add(self, key_F: Tensor, value_D: Tensor, radius: float) -> int:
        """Add an entry and return its number."""
        self.keys_KF = torch.cat([self.keys_KF, key_F[None]])
        self.values_KD = torch.cat([self.values_KD, value_D[None]])
        self.radii_K = torch.cat([self.radii_K, self.radii_K.new_tensor([radius])])
        return len(self.keys_KF) - 1

    def set_value(self, entry: int, value_D: Tensor) -> None:
        """Set an entry's value; gradients flow to `value_D`."""
        row = torch.tensor([entry], device=value_D.device)
        self.values_KD = self.values_KD.detach().index_copy(0, row, value_D[None])

    def make_room(self, key_F: Tensor, answer: str, answers: list[str], radius: float, value_D: Tensor) -> int:
        """Algorithm 1: add, expand or split for a new key, whose value begins as `value_D`.

        answers: the entries' answers, kept up to date here. Returns the entry for `answer`.
        """
        if answers:
            d_K = self.distances(key_F[None])[0]
            near = int(d_K.argmin())
            d = float(d_K[near])
            if d <= float(self.radii_K[near]) + radius:
                if answers[near] == answer:
                    self.radii_K[near] = max(float(self.radii_K[near]), d)
                    return near
                if d <= SAME_KEY * float(key_F.norm()):
                    answers[near] = answer
                    return near
                radius = d / 2
                self.radii_K[near] = radius
        answers.append(answer)
        return self.add(key_F, value_D, radius)


@BASELINES.register("grace")
class Grace(Baseline[GraceSettings]):
    """Edits one after another, each an entry of one codebook."""

    name: ClassVar[str] = "grace"
    paper: ClassVar[str] = "Hartvigsen et al. 2023, Aging with GRACE, https://arxiv.org/abs/2211.11031"
    Settings: ClassVar[type[BaselineSettings]] = GraceSettings
    presets: ClassVar[Mapping[str, BaselineSettings]] = {
        "default": GraceSettings(),
        "gptj": _published(25 / 28, 200),
        "gpt2": _published(35 / 48, 200),
        "llama": _published(27 / 32, 100),
        "mistral": _published(27 / 32, 100),
        "qwen2": _published(18 / 28, 50),
    }

    def check(self, model: PreTrainedModel) -> None:
        """Raises `ModelError` where the model's layers have no MLP with one output projection."""
        mlp_at(model, self.settings.depth)

    def _edit(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], progress: Progress
    ) -> EditedModel:
        """Algorithm 1, edit after edit."""
        edited = self.begin(model)
        mlp = mlp_at(model, self.settings.depth)
        width_D, width_F = mlp.matrix_DF.shape
        empty = torch.empty(0, device=mlp.projection.weight.device)
        codebook = Codebook(
            mlp.projection, edited.question, empty.reshape(0, width_F), empty.reshape(0, width_D), empty
        )
        with edited.whole_or_undone():
            edited.wrap(mlp.projection_path, codebook)
            generator = torch.Generator().manual_seed(self.settings.seed)
            answers: list[str] = []
            for number, edit in enumerate(edits, 1):
                batch = answer_batch(tokenizer, [(edit.prompt, edit.target_new)], model.device)
                loss = self._make(edited, codebook, batch, edit.target_new.strip(), answers, generator)
                progress(Count("grace: editing", number, len(edits), f"loss {loss:.3f}, {len(answers)} entries"))
        return edited

    @torch.enable_grad()
    def _make(
        self,
        edited: EditedModel,
        codebook: Codebook,
        batch: AnswerBatch,
        answer: str,
        answers: list[str],
        generator: torch.Generator,
    ) -> float:
        """One edit: its entry, then the entry's value; the loss before the last step."""
        prompt_1T = prompt_of(batch)
        key_F = entering(edited.model, codebook, prompt_1T)[-1]
        radius = self.settings.radius * (float(key_F.norm()) if self.settings.relative else 1.0)
        entry = codebook.make_room(key_F, answer, answers, radius, self._first_value(codebook, key_F, generator))
        value_D = codebook.values_KD[entry].clone()
        scale = float(value_D.norm()) / len(value_D) ** 0.5 if self.settings.relative else 1.0
        optimizer = torch.optim.Adam([value_D.requires_grad_()], lr=self.settings.learning_rate * scale)
        with edited.asked(prompt_1T.shape[1]):
            for _ in range(self.settings.steps):
                codebook.set_value(entry, value_D)
                loss = answer_loss(edited.model, batch)
                if loss.item() < self.settings.enough:
                    break
                optimizer.zero_grad()
                loss.backward(inputs=[value_D])
                optimizer.step()
        codebook.set_value(entry, value_D.detach())
        return loss.item()

    @torch.no_grad()
    def _first_value(self, codebook: Codebook, key_F: Tensor, generator: torch.Generator) -> Tensor:
        if self.settings.start == "cold":
            return torch.rand(codebook.values_KD.shape[1], generator=generator).to(key_F.device)
        weight = next(codebook.inner.parameters())
        value_D: Tensor = codebook.inner(key_F.to(weight.dtype)[None, None])[0, 0].float()
        return value_D

    def load(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> EditedModel:
        """Load a saved codebook into the unedited model."""

        def build(mlp: Mlp, question: CurrentQuestion, state: State) -> Codebook:
            return Codebook(mlp.projection, question, **state)

        return restore_wrapper(model, folder, "grace", build)
