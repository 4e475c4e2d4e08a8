"""WISE: edits are stored in a side memory, a copy of one MLP's output projection, and a router selects the memory (Wang
et al., NeurIPS 2024).

https://arxiv.org/abs/2405.14768; the equation numbers are those of this docstring. With a the activation that enters
the projection W, the side memory W' = W + Δ begins as W, and a prompt x of N positions is routed by how much the side
memory changes its activations:

    Δ_act(x) = mean over the prompt's positions t of |a_t (W' - W)|₂                                         (1)
    out      = a W'   if Δ_act(x) > ε,   a W otherwise: the model's own output, to the bit                   (2)
    L_a      = max(0, Δ_act(x_i) - α) + max(0, β - Δ_act(x_e)) + max(0, γ - (Δ_act(x_e) - Δ_act(x_i)))        (3)
    L_edit   = -log P_W'(y_e | x_e) + L_a                                                                    (4)

for an edit x_e and an unrelated prompt x_i. The edits are split, in their order, into shards; within a shard they are
learnt one after another, and shard j only ever changes the share ρ of the entries that its random mask M_j picks:

    W'_j <- W'_j - η (M_j ⊙ ∇L_edit)                                                                         (5)
    W'   <- W + TIES(W'_1 - W, ..., W'_k - W)                                                                (6)

TIES (Yadav et al., NeurIPS 2023, https://arxiv.org/abs/2306.01708): of each shard's difference keep the `density`
largest magnitudes; give each entry the sign of the sum; take the mean of those that are not zero and have that sign.
ε is a share of the smallest Δ_act of an edit, under the merged memory.

The memory does not know text. Prompts are routed as a whole: a prefill decides for the decoding steps that follow, and
in a teacher-forced pass the prompt's positions decide for the answer's too. See `side_module`.

Shapes: B rows, T positions, F what enters the projection, D what leaves it, J shards, N positions of one prompt,
E edits.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

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


class WiseSettings(BaselineSettings):
    """WISE's settings.

    depth: which layer, as a share of the model's layers. alpha, beta, gamma: the margins of (3), lengths; if
        `relative`, they and L_a are relative to the typical length of the projection's output.
    rho: the share of entries a shard may change. shards: J. density: the share of a shard that TIES keeps.
    threshold_share: ε over the smallest Δ_act of an edit.
    optimiser, learning_rate, steps: maximum number for an edit; training ends early at a loss below `enough`.
        unrelated: number of unrelated prompts x_i at every step. pool: number of prompts from which they are drawn.

    Published (EasyEdit's hparams/WISE, by the paper's authors): SGD with learning rate 1.0, 70 steps, ρ 0.2, two
    shards of 500 edits, density 0.53, threshold_share 0.88, one unrelated prompt; α, β, γ of 5, 20, 10 and layer 27 of
    32 for Llama-2 and Mistral, layer 23 of 28 for Qwen2.5; 15, 40, 20 and layer 21 of 28 for GPT-J. Left out: its
    clamp of every entry's change to 1.0, and retrieval from several merged memories (WISE-Retrieve); this is
    WISE-Merge. Chosen by us: `enough`, every default except ρ, shards, density and threshold_share.
    """

    depth: float = Field(default=0.6, ge=0, lt=1)
    alpha: float = Field(default=0.25, ge=0)
    beta: float = Field(default=1.0, ge=0)
    gamma: float = Field(default=0.5, ge=0)
    relative: bool = True
    rho: float = Field(default=0.2, gt=0, le=1)
    shards: int = Field(default=2, ge=1)
    density: float = Field(default=0.53, gt=0, le=1)
    threshold_share: float = Field(default=0.88, gt=0, le=1)
    optimiser: Literal["sgd", "adam"] = "adam"
    learning_rate: float = Field(default=5e-3, gt=0)
    steps: int = Field(default=70, ge=1)
    enough: float = Field(default=0.05, ge=0)
    unrelated: int = Field(default=8, ge=1)
    pool: int = Field(default=64, ge=1)


def _published(depth: float, alpha: float = 5.0, beta: float = 20.0, gamma: float = 10.0) -> WiseSettings:
    margins = {"alpha": alpha, "beta": beta, "gamma": gamma, "relative": False}
    return WiseSettings(depth=depth, optimiser="sgd", learning_rate=1.0, unrelated=1, **margins)


class SideMemory(nn.Module):
    """The wrapped projection `inner` with a second memory beside it.

    delta_DF: W' - W, float32 [D, F]. epsilon: ε, float32 [1].
    routing: "by activation" as in (2), or "side" while the memory is learnt.
    """

    delta_DF: Tensor
    epsilon: Tensor

    def __init__(self, inner: nn.Module, question: CurrentQuestion, delta_DF: Tensor, epsilon: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.routing: Literal["by activation", "side"] = "by activation"
        self._question = question
        self._open_B: Tensor | None = None
        self.register_buffer("delta_DF", delta_DF)
        self.register_buffer("epsilon", epsilon)

    def forward(self, a_BTF: Tensor) -> Tensor:
        """Equation (2); a pass without the prompt's end uses the memory of its prompt."""
        out_BTD: Tensor = self.inner(a_BTF)
        moved_BTD = F.linear(a_BTF.float(), self.delta_DF)
        end = prompt_end(self._question, a_BTF.shape[1])
        if self.routing == "side":
            open_B = torch.ones(len(a_BTF), dtype=torch.bool, device=a_BTF.device)
        elif end is not None:
            open_B = moved_BTD[:, : end + 1].norm(dim=-1).mean(dim=-1) > self.epsilon
            self._open_B = open_B
        elif self._open_B is not None and len(self._open_B) == len(a_BTF):
            open_B = self._open_B
        else:
            return out_BTD
        if not open_B.any():
            return out_BTD
        side_BTD = (out_BTD.float() + moved_BTD).to(out_BTD.dtype)
        return side_BTD if open_B.all() else torch.where(open_B[:, None, None], side_BTD, out_BTD)

    def activations(self, prompts: Sequence[Tensor]) -> Tensor:
        """Δ_act of each prompt (1), from what enters the projection at its positions, [N, F]."""
        lengths = F.linear(torch.cat(list(prompts)), self.delta_DF).norm(dim=-1)
        return torch.stack([own_N.mean() for own_N in lengths.split([len(a_NF) for a_NF in prompts])])


def margin_loss(edit: Tensor, unrelated: Tensor, alpha: float, beta: float, gamma: float) -> Tensor:
    """L_a (3) for Δ_act of an edit and of unrelated prompts, the mean over the unrelated prompts."""
    return (F.relu(unrelated - alpha) + F.relu(beta - edit) + F.relu(gamma - (edit - unrelated))).mean()


def random_mask(shape: torch.Size, rho: float, seed: int) -> Tensor:
    """Which entries a shard may change: a share `rho` of them, the same on every machine; bool, on the CPU."""
    count = math.prod(shape)
    picked = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[: max(1, round(rho * count))]
    mask = torch.zeros(count, dtype=torch.bool)
    mask[picked] = True
    return mask.reshape(shape)


def ties(deltas: Sequence[Tensor], density: float) -> Tensor:
    """TIES merging of differences of one shape: trim, elect signs, mean of those that agree."""
    trimmed_JDF = torch.stack([_trim(delta, density) for delta in deltas])
    agrees_JDF = (trimmed_JDF.sign() == trimmed_JDF.sum(0).sign()) & (trimmed_JDF != 0)
    return (trimmed_JDF * agrees_JDF).sum(0) / agrees_JDF.sum(0).clamp(min=1)


def _trim(delta: Tensor, density: float) -> Tensor:
    keep = max(1, round(density * delta.numel()))
    kept = torch.zeros_like(delta).flatten()
    at = delta.flatten().abs().topk(keep).indices
    kept[at] = delta.flatten()[at]
    return kept.reshape(delta.shape)


@BASELINES.register("wise")
class Wise(Baseline[WiseSettings]):
    """Edits one after another, in shards that are merged at the end."""

    name: ClassVar[str] = "wise"
    paper: ClassVar[str] = "Wang et al. 2024, WISE, https://arxiv.org/abs/2405.14768"
    Settings: ClassVar[type[BaselineSettings]] = WiseSettings
    presets: ClassVar[Mapping[str, BaselineSettings]] = {
        "default": WiseSettings(),
        "gptj": _published(21 / 28, 15.0, 40.0, 20.0),
        "llama": _published(27 / 32),
        "mistral": _published(27 / 32),
        "qwen2": _published(23 / 28),
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
        """Draw the unrelated prompts x_i; nothing is computed or cached."""
        self._unrelated = material.draw_unrelated(self.settings.pool, self.settings.seed)

    def _edit(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], progress: Progress
    ) -> EditedModel:
        """Learn the shards, merge them, set ε. Raises `ModelError` if `prepare` was given no unrelated prompts."""
        if not self._unrelated:
            raise ModelError("wise routes by comparison with unrelated prompts and has none; call prepare with some")
        edited = self.begin(model)
        if not edits:
            return edited
        mlp = mlp_at(model, self.settings.depth)
        matrix_DF = mlp.matrix_DF.detach().float()
        memory = SideMemory(mlp.projection, edited.question, torch.zeros_like(matrix_DF), matrix_DF.new_zeros(1))
        unrelated = [
            entering(model, mlp.projection, torch.tensor([prompt_ids(tokenizer, prompt)], device=model.device))
            for prompt in self._unrelated
        ]
        unit = self._unit(matrix_DF, unrelated)
        with edited.whole_or_undone():
            edited.wrap(mlp.projection_path, memory)
            batches = [answer_batch(tokenizer, [(edit.prompt, edit.target_new)], model.device) for edit in edits]
            rng = random.Random(self.settings.seed)
            deltas = []
            for shard, rows in enumerate(_shards(len(batches), self.settings.shards)):
                memory.delta_DF = torch.zeros_like(matrix_DF)
                mask_DF = random_mask(matrix_DF.shape, self.settings.rho, self.settings.seed + shard)
                mask_DF = mask_DF.to(matrix_DF.device)
                for row in rows:
                    loss = self._learn(edited, memory, batches[row], mask_DF, unrelated, unit, rng)
                    progress(Count("wise: editing", row + 1, len(edits), f"shard {shard + 1}, loss {loss:.3f}"))
                deltas.append(memory.delta_DF)
            memory.delta_DF = ties(deltas, self.settings.density)
            activations_E = memory.activations([entering(model, memory, prompt_of(batch)) for batch in batches])
            memory.epsilon = self.settings.threshold_share * activations_E.min()[None]
        return edited

    def load(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> EditedModel:
        """Load a saved side memory and its ε into the unedited model."""

        def build(mlp: Mlp, question: CurrentQuestion, state: State) -> SideMemory:
            return SideMemory(mlp.projection, question, **state)

        return restore_wrapper(model, folder, "wise", build)

    def _unit(self, matrix_DF: Tensor, unrelated: Sequence[Tensor]) -> float:
        """The factor of the margins: the median length of |a W| over unrelated prompts, or 1."""
        if not self.settings.relative:
            return 1.0
        return float(torch.cat([F.linear(a_NF, matrix_DF).norm(dim=-1) for a_NF in unrelated]).median())

    @torch.enable_grad()
    def _learn(
        self,
        edited: EditedModel,
        memory: SideMemory,
        batch: AnswerBatch,
        mask_DF: Tensor,
        unrelated: Sequence[Tensor],
        unit: float,
        rng: random.Random,
    ) -> float:
        """One edit by (4) and (5); the loss before the last step."""
        prompt_1N = prompt_of(batch)
        a_NF = entering(edited.model, memory, prompt_1N)
        delta_DF = memory.delta_DF.requires_grad_()
        kind = torch.optim.SGD if self.settings.optimiser == "sgd" else torch.optim.Adam
        optimizer = kind([delta_DF], lr=self.settings.learning_rate)
        margins = tuple(unit * margin for margin in (self.settings.alpha, self.settings.beta, self.settings.gamma))
        memory.routing = "side"
        with edited.asked(prompt_1N.shape[1]):
            for _ in range(self.settings.steps):
                others = rng.sample(unrelated, min(self.settings.unrelated, len(unrelated)))
                unrelated_U = memory.activations(others)
                routing = margin_loss(memory.activations([a_NF]), unrelated_U, *margins) / unit
                loss = answer_loss(edited.model, batch) + routing
                if loss.item() < self.settings.enough:
                    break
                delta_DF.grad = torch.autograd.grad(loss, delta_DF)[0] * mask_DF
                optimizer.step()
        memory.routing = "by activation"
        memory.delta_DF = delta_DF.detach()
        return loss.item()


def _shards(edits: int, shards: int) -> list[range]:
    """Consecutive parts of similar size, at most one for each edit."""
    count = max(1, min(shards, edits))
    bounds = [edits * number // count for number in range(count + 1)]
    return [range(start, end) for start, end in itertools.pairwise(bounds)]
