"""Finds the MLP of each decoder layer, which stores its facts, from the module tree.

Locate-then-edit methods change the projection from an MLP's activation back to the model's width. It is found by
structure, not by a list of model names. The layers are the longest list of modules of the same class. The MLP is the
child of a layer that holds no attention. The projection is its linear map from the inner width to the model's width.

Shapes: D model width, F inner width of the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from onceedit_ray.errors import ModelError


@dataclass(frozen=True)
class Mlp:
    """One layer's MLP.

    layer: the layer's number. layer_path, path, projection_path: dotted names of the layer, of the MLP and of its
    output projection. projection: the module itself, `nn.Linear` or GPT-2's transposed `Conv1D`.
    """

    layer: int
    layer_path: str
    path: str
    projection_path: str
    projection: nn.Linear | Conv1D

    @property
    def weight_path(self) -> str:
        """The name of the projection's weight among the model's parameters."""
        return f"{self.projection_path}.weight"

    @property
    def matrix_DF(self) -> Tensor:
        """The projection as the map k -> W k, a view of the weight, [D, F]."""
        weight = self.projection.weight
        return weight.T if isinstance(self.projection, Conv1D) else weight


def find_mlps(model: PreTrainedModel) -> list[Mlp]:
    """The MLPs of a decoder, layer after layer.

    Raises `ModelError`, which names the missing part, for a model of another structure (for example a mixture of
    experts).
    """
    layers_path, layers = _layers(model)
    width = layer_width(model)
    return [_mlp(model, f"{layers_path}.{number}", number, layer, width) for number, layer in enumerate(layers)]


def layer_at(layers: int, depth: float, rounded: bool = True) -> int:
    """The layer at a share of the depth in [0, 1), counted from 0: 5/32 is layer 5 of 32 and layer 5 of 30.

    rounded: to the nearest layer, for methods that change weights; otherwise down, for methods with a side module. One
        rule for both would change committed results, see docs/compare-methods.md.
    """
    share = depth * layers
    return min(round(share) if rounded else int(share), layers - 1)


def nearest_mlp(model: PreTrainedModel, depth: float) -> Mlp:
    """The MLP of the layer nearest to a share of the depth; raises `ModelError` as `find_mlps` does."""
    mlps = find_mlps(model)
    return mlps[layer_at(len(mlps), depth)]


def layer_width(model: PreTrainedModel) -> int:
    """D, the width of the layers; embeddings may be narrower or wider (OPT-350m has 512 for 1,024)."""
    text = model.config.get_text_config()
    return int(getattr(text, "hidden_size", None) or model.get_input_embeddings().weight.shape[1])


def _layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(child) for child in module}) == 1
    ]
    if not lists:
        raise ModelError(f"{type(model).__name__} has no list of decoder layers; this editor needs one")
    return max(lists, key=lambda found: (len(found[1]), -found[0].count(".")))


def _mlp(model: PreTrainedModel, layer_path: str, number: int, layer: nn.Module, width: int) -> Mlp:
    for child_name, child in layer.named_children():
        if isinstance(child, nn.Linear | Conv1D) or "attn" in child_name.lower() or "attention" in child_name.lower():
            continue
        found = [(name, module) for name, module in child.named_modules() if _projects(module, width)]
        if len(found) == 1:
            name, module = found[0]
            path = f"{layer_path}.{child_name}"
            return Mlp(number, layer_path, path, f"{path}.{name}", module)
    own = [(name, module) for name, module in layer.named_children() if _projects(module, width)]
    if len(own) == 1:  # OPT: the MLP's two maps stand in the layer itself
        return Mlp(number, layer_path, layer_path, f"{layer_path}.{own[0][0]}", own[0][1])
    raise ModelError(
        f"{layer_path} of {type(model).__name__} has no MLP with one output projection to width {width} "
        "(a mixture of experts?); choose an editor that does not need it"
    )


def _projects(module: nn.Module, width: int) -> bool:
    if isinstance(module, Conv1D):
        return module.weight.shape[1] == width and module.weight.shape[0] != width
    return isinstance(module, nn.Linear) and module.out_features == width and module.in_features != width
