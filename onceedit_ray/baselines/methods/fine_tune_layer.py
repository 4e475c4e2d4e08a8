"""FT-L: fine-tuning of one MLP projection, each weight changed by at most ε (Zhu et al. 2020, as in Meng et al. 2022).

    min_δ  -1/M Σ log P(answer token | prompt, answer so far; W + δ)      over the M answer tokens
    s. t.  ‖δ‖_∞ ≤ ε

by projected gradient descent: an Adam step on δ, then every entry of δ is clipped to [-ε, ε]. All edits are learnt
together, in batches, until the loss of each edit is small or the steps are used up. δ is kept in float32, so that steps
smaller than the resolution of a bfloat16 weight are not lost. Each answer token is predicted at its own position, as in
EasyEdit's FT-M; EasyEdit's FT-L predicts all of them at the prompt's last token.

Zhu et al. 2020, Modifying Memories in Transformer Models, https://arxiv.org/abs/2012.00363; the constrained
fine-tuning of one layer ("FT+L") that ROME is compared with: Meng et al. 2022, https://arxiv.org/abs/2202.05262.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import BASELINES, Baseline, BaselineSettings
from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.mlps import nearest_mlp
from onceedit_ray.baselines.teacher_forcing import answer_batch, answer_loss
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.progress import Count, Progress


class FineTuneLayerSettings(BaselineSettings):
    """depth: the layer as a share of all layers, rounded. steps: passes over the edits. goal: mean loss to stop at.

    bound: ε, the largest change of a weight. learning_rate: Adam's. batch_size: edits in one step.
    """

    depth: float = Field(21 / 32, ge=0, lt=1)
    steps: int = Field(25, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    bound: float = Field(1e-2, gt=0)
    goal: float = Field(0.01, ge=0)
    batch_size: int = Field(16, ge=1)


@BASELINES.register("ft-l")
class FineTuneLayer(Baseline[FineTuneLayerSettings]):
    """One layer's MLP projection, under a bound on every weight.

    Presets: GPT-2 XL and GPT-J are the constrained fine-tuning of Meng et al. 2022 (layer 0). For Llama, Mistral and
    Qwen2 the layer is EasyEdit's, which publishes a bound for Mistral alone, 5e-5; ε and the learning rate are chosen
    by us so that a small model learns single edits, as Gemma 3's and the default ones are. (SmolLM2-135M learns few
    with ε at 5e-4.)
    """

    name: ClassVar[str] = "ft-l"
    paper: ClassVar[str] = "Zhu et al. 2020, Modifying Memories in Transformer Models, https://arxiv.org/abs/2012.00363"
    Settings: ClassVar[type[BaselineSettings]] = FineTuneLayerSettings
    presets: ClassVar[Mapping[str, BaselineSettings]] = {
        "default": FineTuneLayerSettings(),
        "gemma3_text": FineTuneLayerSettings(learning_rate=5e-4, bound=1e-3),
        "gpt2": FineTuneLayerSettings(depth=0.0, learning_rate=5e-4, bound=5e-4),
        "gptj": FineTuneLayerSettings(depth=0.0, learning_rate=5e-4, bound=5e-5),
        "llama": FineTuneLayerSettings(depth=21 / 32),
        "mistral": FineTuneLayerSettings(depth=21 / 32),
        "qwen2": FineTuneLayerSettings(depth=27 / 28),
    }

    def check(self, model: PreTrainedModel) -> None:
        """Raises `ModelError` where the model's MLPs are not found."""
        nearest_mlp(model, self.settings.depth)

    def _edit(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], progress: Progress
    ) -> EditedModel:
        """Learn all `edits` together."""
        settings, mlp = self.settings, nearest_mlp(model, self.settings.depth)
        edited = self.begin(model)
        weight = edited.keep_parameter(mlp.weight_path)
        delta = torch.zeros_like(weight, dtype=torch.float32, requires_grad=False)
        optimizer = torch.optim.Adam([delta], lr=settings.learning_rate)
        rng = random.Random(settings.seed)
        pairs = [(edit.prompt, edit.target_new) for edit in edits]
        with edited.whole_or_undone():
            for step in range(1, settings.steps + 1):
                rng.shuffle(pairs)
                total = 0.0
                for start in range(0, len(pairs), settings.batch_size):
                    chosen = pairs[start : start + settings.batch_size]
                    loss, delta.grad = _loss_and_gradient(model, tokenizer, chosen, weight)
                    optimizer.step()
                    delta.clamp_(-settings.bound, settings.bound)
                    edited.set_parameter(mlp.weight_path, edited.original(mlp.weight_path) + delta)
                    total += loss * len(chosen)
                mean = total / max(len(pairs), 1)
                progress(Count("ft-l: steps", step, settings.steps, f"loss {mean:.3f}"))
                if mean < settings.goal:
                    break
        return edited


@torch.enable_grad()
def _loss_and_gradient(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], weight: Tensor
) -> tuple[float, Tensor]:
    """The answers' loss and its gradient to `weight` alone, float32, even if the model's weights are frozen."""
    trained = weight.requires_grad
    weight.requires_grad_(True)
    try:
        loss = answer_loss(model, answer_batch(tokenizer, pairs, model.device))
        (gradient,) = torch.autograd.grad(loss, weight)
    finally:
        weight.requires_grad_(trained)
    return loss.item(), gradient.float()
