"""MEMIT: mass-editing memory in a transformer (Meng et al. 2023, https://arxiv.org/abs/2210.07229).

Like ROME, but all facts at once and over several layers ℓ = l₁ … L. For each fact i a vector is added to the residual
stream after layer L, at the subject's last token, until the model gives the answer. The MLPs of the chosen layers then
produce this change of the residual stream, an equal share each, from the first to the last:

    z_i = h_i^L + argmin_δ L(δ)                       see `baselines.target_value`                   (eq. 16)
    k_i^ℓ = ½ k^ℓ(prompt_i) + ½ mean_j k^ℓ(x_j + prompt_i)          keys; x_j are sampled prefixes       (§4.3)
    r_i^ℓ = (z_i - h_i^L) / (L - ℓ + 1)               h_i^L after the layers before were changed         (§4.3)
    Δ^ℓ   = R Kᵀ (λ C^ℓ + K Kᵀ)⁻¹                     with C^ℓ = E[k kᵀ] over ordinary text         (eq. 14, 15)

L - ℓ + 1 counts the chosen layers from ℓ on. In the paper's mean all prefixes have the same weight; in its authors'
code, and here, the empty prefix has half of the weight. If a model has a norm between MLP and residual stream, or
scales the MLP's output, r is first converted to a change of the MLP's output (`baselines.post_norm`).

Shapes: N edits, F inner width, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import BASELINES, Baseline, BaselineSettings, Material
from onceedit_ray.baselines.closed_form import changed_weight, least_squares
from onceedit_ray.baselines.context_templates import context_prefixes
from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.mlps import Mlp, find_mlps, layer_at
from onceedit_ray.baselines.post_norm import norm_after, residual_factor, value_change
from onceedit_ray.baselines.second_moment import second_moments
from onceedit_ray.baselines.target_value import Located, TargetSettings, bare_output, keys_of, locate, target_shift
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.progress import Count, Progress


class MemitSettings(TargetSettings):
    """depths: the edited layers as shares of all layers, rounded. ordinary: λ / F, the weight of ordinary keys. λ is
    relative to the width F of the MLP, because kᵀ C⁻¹ k is about F for an ordinary key: an edit's key reaches a share
    of about F / (F + λ) of its value on models of any size.
    """

    depths: tuple[float, ...] = Field(tuple(layer / 32 for layer in range(4, 9)), min_length=1)
    ordinary: float = Field(15_000 / 11_008, gt=0)


def edit_key(model: PreTrainedModel, mlp: Mlp, located: Located) -> Tensor:
    """k of one edit: half of it the bare prompt's key, half the mean over the sampled prefixes, [F] float32."""
    keys_BF = keys_of(model, mlp, located)
    return keys_BF[0] if len(keys_BF) == 1 else (keys_BF[0] + keys_BF[1:].mean(0)) / 2


def _way_out(model: PreTrainedModel, mlp: Mlp) -> tuple[nn.Module | None, float]:
    """The norm that an MLP's output passes, or the factor by which the layer adds it to the residual stream.

    A model without weights shows no factor; it is found when the weights are there.
    """
    norm = norm_after(model, mlp)
    weightless = model.device.type == "meta"
    return norm, 1.0 if norm is not None or weightless else residual_factor(model, mlp)


@BASELINES.register("memit")
class Memit(Baseline[MemitSettings]):
    """Closed-form updates of several layers, all edits at once.

    Presets: GPT-J as the authors published it; GPT-2 XL, Llama, Mistral and Qwen2 as EasyEdit publishes them.
    Gemma 3 is chosen by us on its 270M model, whose residual stream has a large norm: with a learning rate of 0.5 the
    targets are not reached. The default, for small models, has the prefixes and steps of our default for ROME and Gemma
    3's λ: with the λ of large models a larger part of every edit is missing after the last layer.
    """

    name: ClassVar[str] = "memit"
    paper: ClassVar[str] = "Meng et al. 2023, Mass-Editing Memory in a Transformer, https://arxiv.org/abs/2210.07229"
    Settings: ClassVar[type[BaselineSettings]] = MemitSettings
    presets: ClassVar[Mapping[str, BaselineSettings]] = {
        "default": MemitSettings(decay=1e-3, ordinary=0.3, steps=50, prefixes=((5, 3), (10, 3))),
        "gemma3_text": MemitSettings(learning_rate=2.0, decay=1e-3, ordinary=0.3),
        "gpt2": MemitSettings(
            depths=tuple(n / 48 for n in range(13, 18)), ordinary=20_000 / 6_400, clamp=0.75, steps=20
        ),
        "gptj": MemitSettings(depths=tuple(n / 28 for n in range(3, 9)), ordinary=15_000 / 16_384, clamp=0.75),
        "llama": MemitSettings(decay=1e-3),
        "mistral": MemitSettings(ordinary=15_000 / 14_336, decay=1e-3),
        "qwen2": MemitSettings(depths=tuple(n / 28 for n in range(4, 9)), ordinary=15_000 / 18_944, decay=1e-3),
    }

    def __init__(self, settings: BaselineSettings) -> None:
        super().__init__(settings)
        self._moments: dict[int, Tensor] = {}

    def check(self, model: PreTrainedModel) -> None:
        """Raises `ModelError` where the model's MLPs are not found, or do not add to the residual stream plainly."""
        for mlp in self._mlps(model):
            _way_out(model, mlp)

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material, progress: Progress
    ) -> None:
        """Make or read C of the edited layers; `DataError` if there is neither a corpus nor a statistic."""
        mlps = self._mlps(model)
        self._moments = second_moments(model, tokenizer, mlps, material, self.settings.texts, progress)

    def _edit(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], progress: Progress
    ) -> EditedModel:
        """Make all `edits` at once; `ModelError` if `prepare` was not called."""
        mlps = self._mlps(model)
        if any(mlp.layer not in self._moments for mlp in mlps):
            raise ModelError("memit has no statistics of this model; call `prepare` before `edit`")
        edited = self.begin(model)
        if not edits:
            return edited
        last = model.get_submodule(mlps[-1].layer_path)
        prefixes = context_prefixes(model, tokenizer, self.settings.prefixes, self.settings.seed)
        located = [locate(model, tokenizer, edit, prefixes) for edit in edits]
        targets = []
        for number, each in enumerate(located, start=1):
            targets.append(bare_output(model, last, each) + target_shift(model, last, each, self.settings))
            progress(Count("memit: targets", number, len(edits)))
        z_ND = torch.stack(targets)
        with edited.whole_or_undone():
            for left, mlp in zip(range(len(mlps), 0, -1), mlps, strict=True):
                h_ND = torch.stack([bare_output(model, last, each) for each in located])
                update_DF = self._update(model, mlp, located, (z_ND - h_ND) / left)
                edited.set_parameter(mlp.weight_path, changed_weight(mlp, update_DF))
                progress(f"layer {mlp.layer}: {(z_ND - h_ND).norm(dim=1).mean():.2f} missing before its update")
        return edited

    def _update(self, model: PreTrainedModel, mlp: Mlp, located: Sequence[Located], r_ND: Tensor) -> Tensor:
        K_NF = torch.stack([edit_key(model, mlp, each) for each in located])
        m_ND = torch.stack([bare_output(model, mlp.projection, each) for each in located])
        norm, gain = _way_out(model, mlp)
        R_ND = value_change(norm, m_ND, r_ND, gain)
        weight = self.settings.ordinary * K_NF.shape[1]
        return least_squares(self._moments[mlp.layer], weight, K_NF.T, R_ND.T)

    def _mlps(self, model: PreTrainedModel) -> list[Mlp]:
        mlps = find_mlps(model)
        chosen = {layer_at(len(mlps), depth) for depth in self.settings.depths}
        return [mlps[number] for number in sorted(chosen)]
