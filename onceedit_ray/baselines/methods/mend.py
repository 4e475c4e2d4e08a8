"""MEND: a hyper-network turns the fine-tuning gradient of an edit into one that is reliable, general and local.

For the weights W of the MLPs of the last layers (input and output projections; three layers in the paper):

    ∇W L(x_e, y_e) = Σ_n δ_n u_nᵀ      one term a token
    (ũ_n, δ̃_n)     = g(u_n, δ_n)       the hyper-network, `baselines.gradient_transform`
    W̃              = W - α Σ_n δ̃_n ũ_nᵀ

g and α are learnt on the dataset's training part, see `baselines.mend_training`. Several edits form one batch: the
terms of all their tokens, at the unedited weights, are transformed and summed (section 3.2 of the paper).

Mitchell, Lin, Bosselut, Finn, Manning: Fast Model Editing at Scale. ICLR 2022, https://arxiv.org/abs/2110.11309
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from onceedit_ray.baselines import BASELINES, Baseline, BaselineSettings, Material
from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.gradient_transform import GradientTransform, LinearMap
from onceedit_ray.baselines.mend_training import TrainingSettings, edited_weights, pair_factors, train
from onceedit_ray.baselines.mlps import Mlp, find_mlps
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.progress import Progress


class MendSettings(TrainingSettings):
    """MEND's settings; the defaults are chosen by us for models of 100 to 300 million parameters on two CPU cores.

    layers: how many layers are edited, the last ones. rank: of the hyper-network's weights. rate: the change of one
        entry of a weight by one token before training, the published `edit_lr`.
    """

    layers: int = Field(default=3, ge=1)
    rank: int = Field(default=256, ge=1)
    rate: float = Field(default=3e-5, gt=0)


# EasyEdit's hparams/MEND/{gpt2-xl,gpt-j-6B}.yaml, which keep the paper's values except for the number of steps.
# Differences: Adam steps after every edit, there after ten; there is no early stopping; they learn α with a rate of
# 1e-4, we learn its logarithm.
_PUBLISHED = MendSettings(
    layers=3,
    rank=1920,
    rate=1e-4,
    steps=100_000,
    edits_per_step=1,
    probes_per_step=1,
    learning_rate=1e-6,
    edit_weight=0.1,
    locality_weight=1.0,
    gradient_clip=100.0,
    swapped_answers=0.0,
    checkpoint_every=1000,
)


@BASELINES.register("mend")
class Mend(Baseline[MendSettings]):
    """MEND as a baseline; `prepare` trains or reads the hyper-network, `edit` makes all edits as one batch."""

    name: ClassVar[str] = "mend"
    paper: ClassVar[str] = "Mitchell et al. 2022, Fast Model Editing at Scale, https://arxiv.org/abs/2110.11309"
    Settings: ClassVar[type[BaselineSettings]] = MendSettings
    presets: ClassVar[Mapping[str, BaselineSettings]] = {
        "default": MendSettings(),
        "gpt2": _PUBLISHED,
        "gptj": _PUBLISHED,
    }

    def __init__(self, settings: BaselineSettings) -> None:
        super().__init__(settings)
        self._transform: GradientTransform | None = None
        self._prepared_for: PreTrainedModel | None = None

    def check(self, model: PreTrainedModel) -> None:
        """Raise `ModelError` if the MLPs of the last layers are not found, or cannot have gradients."""
        edited_maps(model, self.settings.layers)

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material, progress: Progress
    ) -> None:
        """Train the hyper-network, resume an interrupted training, or read a finished one.

        Raises `DataError` if there is no training data.
        """
        maps = edited_maps(model, self.settings.layers)
        settings = self.settings
        transform = GradientTransform(maps, settings.rank, settings.rate, settings.seed).to(model.device)
        train(transform, model, tokenizer, material, settings, progress)
        self._transform, self._prepared_for = transform, model

    def _edit(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], progress: Progress
    ) -> EditedModel:
        """Make all `edits` at once; raises `ModelError` if `prepare` was not called for this model."""
        if self._transform is None or self._prepared_for is not model:
            raise ModelError("mend has no hyper-network for this model; call `prepare` with it first")
        pairs = [(edit.prompt, edit.target_new) for edit in edits]
        edited = self.begin(model)
        with torch.no_grad():
            weights = edited_weights(self._transform, model, pair_factors(self._transform, model, tokenizer, pairs))
        with edited.whole_or_undone():
            for name, weight in weights.items():
                edited.set_parameter(name, weight)
            progress(f"mend: {len(edits)} edits made at once in {len(weights)} weights")
        return edited


def edited_maps(model: PreTrainedModel, layers: int) -> list[LinearMap]:
    """The linear maps of the MLPs of the last `layers` layers, each layer's input projections before its output's.

    Raises `ModelError` if the model has fewer layers, or if a layer has no input projection of its own.
    """
    mlps = find_mlps(model)
    if len(mlps) < layers:
        raise ModelError(
            f"{type(model).__name__} has {len(mlps)} layers and mend is to edit {layers}; set layers lower"
        )
    return [linear for mlp in mlps[-layers:] for linear in _maps_of(model, mlp)]


def _maps_of(model: PreTrainedModel, mlp: Mlp) -> list[LinearMap]:
    output = LinearMap(mlp.projection_path, mlp.projection)
    inner, width = output.widths
    # In OPT the linear maps are direct children of the layer: `mlp.path` is the layer itself, and its attention is left
    # out.
    inputs = [
        linear
        for name, module in model.get_submodule(mlp.path).named_modules()
        if isinstance(module, nn.Linear | Conv1D) and "attn" not in name.lower() and "attention" not in name.lower()
        for linear in [LinearMap(f"{mlp.path}.{name}", module)]
        # a multiple: gate and input projection fused into one
        if linear.widths[0] == width and linear.widths[1] % inner == 0
    ]
    if not inputs:
        kind = type(model).__name__
        raise ModelError(f"{mlp.path} of {kind} has no linear map from {width} to {inner}; mend needs it")
    return [*inputs, output]
