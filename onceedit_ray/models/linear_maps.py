"""Faster linear layers on a CPU, in which decoding spends nearly all of its time.

BLAS reads a float32 weight at 25 to 50 % of the memory bandwidth, and oneDNN reorders a bfloat16 weight for every
product. If the weights are reordered once, when the model is loaded, both are read at nearly the full bandwidth for 1
to 100 rows. Results in bfloat16 are bit-identical; float32 sums are taken in another order (relative difference 1e-6).

Shapes: I inputs, O outputs.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from onceedit_ray.models.loading import has_bfloat16

ROWS = 16
"""Rows for which oneDNN lays a weight out: a layout for one row is slow with two or more; this one is always fast."""


def speed_up_linear_maps(model: PreTrainedModel) -> None:
    """Lay out the weights of the linear maps of a `model` on a CPU; the model is for inference from now on.

    A map's weight is replaced by its laid-out form, unless the input embeddings share it. If this build of torch has no
    oneDNN, or the CPU does not multiply in a map's dtype, the map is unchanged.
    """
    if not torch.backends.mkldnn.is_available():
        return
    shared = model.get_input_embeddings().weight
    for module in model.modules():
        if type(module) is not nn.Linear or not _can_be_laid_out(module.weight):
            continue
        laid_out = lay_out(module.weight)
        module.forward = functools.partial(laid_out_linear, laid_out, module.bias)  # type: ignore[method-assign]
        if module.weight is not shared:
            module.weight = nn.Parameter(laid_out, requires_grad=False)


@torch.no_grad()
def lay_out(W_OI: Tensor) -> Tensor:
    """A weight in oneDNN's own memory layout, which other operations cannot read."""
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(W_OI.detach(), ROWS)
    return laid_out


def laid_out_linear(laid_out_OI: Tensor, bias_O: Tensor | None, x: Tensor) -> Tensor:
    """x·Wᵀ + bias, x: [..., I] to [..., O], in the weight's dtype."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out_OI, bias_O, "none", [], "")
    return y


def _can_be_laid_out(weight: Tensor) -> bool:
    if weight.device.type != "cpu":
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_bfloat16(weight.device))
