"""ROME: rank-one model editing (Meng et al. 2022, https://arxiv.org/abs/2202.05262).

One layer's MLP is a memory whose output projection W maps keys to values. To insert a fact, W is changed so that it
maps the subject's key k* to a value v* that gives the answer, and changes the values of all other keys as little as
possible:

    k* = 1/N Σ_j k(x_j + prompt)              at the subject's last token, over sampled prefixes x_j    (eq. 3)
    v* = W k* + b + argmin_δ L(δ)             see `baselines.target_value`                                (eq. 4)
    W' = W + Λ (C⁻¹ k*)ᵀ,   Λ = (v* - W k* - b) / ((C⁻¹ k*)ᵀ k*)                                        (eq. 2)

with C = E[k kᵀ] over ordinary text (`baselines.second_moment`). W' k = W k for every k orthogonal to C⁻¹ k*. Several
edits are made one after another, each on the already edited model, with the C of the unedited model.

Shapes: F inner width, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import BASELINES, Baseline, BaselineSettings, Material
from onceedit_ray.baselines.closed_form import changed_weight, factor, rank_one
from onceedit_ray.baselines.context_templates import context_prefixes
from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.mlps import nearest_mlp
from onceedit_ray.baselines.second_moment import second_moments
from onceedit_ray.baselines.target_value import TargetSettings, keys_of, locate, target_shift
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.progress import Count, Progress


class RomeSettings(TargetSettings):
    """depth: the edited layer as a share of all layers, rounded; a published layer as a fraction of its model's."""

    depth: float = Field(5 / 32, ge=0, lt=1)
    prefixes: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))


@BASELINES.register("rome")
class Rome(Baseline[RomeSettings]):
    """Rank-one updates of one layer, one edit after another.

    Presets: GPT-2 XL as the authors published it; GPT-J, Llama, Mistral and Qwen2 as EasyEdit publishes them
    (except C, which it leaves out). The default has fewer prefixes, for machines without a GPU, and more steps, which
    only answers of many tokens use up.
    """

    name: ClassVar[str] = "rome"
    paper: ClassVar[str] = (
        "Meng et al. 2022, Locating and Editing Factual Associations in GPT, https://arxiv.org/abs/2202.05262"
    )
    Settings: ClassVar[type[BaselineSettings]] = RomeSettings
    presets: ClassVar[Mapping[str, BaselineSettings]] = {
        "default": RomeSettings(decay=1e-3, steps=50, prefixes=((5, 3), (10, 3))),
        "gpt2": RomeSettings(depth=17 / 48, steps=20),
        "gptj": RomeSettings(depth=5 / 28, steps=20),
        "llama": RomeSettings(depth=5 / 32, decay=1e-3),
        "mistral": RomeSettings(depth=5 / 32, decay=1e-3),
        "qwen2": RomeSettings(depth=5 / 28, decay=1e-3),
    }

    def __init__(self, settings: BaselineSettings) -> None:
        super().__init__(settings)
        self._factor_FF: Tensor | None = None

    def check(self, model: PreTrainedModel) -> None:
        """Raises `ModelError` where the model's MLPs are not found."""
        nearest_mlp(model, self.settings.depth)

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material, progress: Progress
    ) -> None:
        """Make or read C of the edited layer; `DataError` if there is neither a corpus nor a statistic."""
        mlp = nearest_mlp(model, self.settings.depth)
        moments = second_moments(model, tokenizer, [mlp], material, self.settings.texts, progress)
        self._factor_FF = factor(moments[mlp.layer], model.device)

    def _edit(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], progress: Progress
    ) -> EditedModel:
        """Make `edits` one after another; `ModelError` if `prepare` was not called."""
        if self._factor_FF is None:
            raise ModelError("rome has no statistic of this model; call `prepare` before `edit`")
        mlp = nearest_mlp(model, self.settings.depth)
        edited = self.begin(model)
        prefixes = context_prefixes(model, tokenizer, self.settings.prefixes, self.settings.seed)
        with edited.whole_or_undone():
            for number, edit in enumerate(edits, start=1):
                located = locate(model, tokenizer, edit, prefixes)
                k_F = keys_of(model, mlp, located).mean(0)
                delta_D = target_shift(model, mlp.projection, located, self.settings)
                update_DF = rank_one(self._factor_FF, k_F, delta_D)
                edited.set_parameter(mlp.weight_path, changed_weight(mlp, update_DF))
                progress(Count("rome: editing", number, len(edits)))
        return edited
