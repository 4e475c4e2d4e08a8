"""Faster linear maps on a CPU, where decoding spends nearly all of its time.

float32: BLAS reads the weight once for one row; for two to eight rows it takes two to three times as long when asked
for x·Wᵀ, and hardly longer than for one when asked for W·xᵀ. One row and many rows are left as they are, so a request
alone runs the arithmetic of `transformers`.

bfloat16: oneDNN lays a weight out anew for every product. Laid out once, when the model is loaded, a row takes half the
time; the sums are the same ones in the same order, and so are the bits.

Shapes: M rows, I inputs, O outputs.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from onceedit_ray.models.loading import has_bfloat16

ROWS = 4
ROWS_OF_LARGE = 8
LARGE = 16_384
"""Most rows for which W·xᵀ is the faster one; more of them for maps with at least `LARGE` outputs, the output head."""


def speed_up_linear_maps(model: PreTrainedModel) -> None:
    """Let the linear maps of a `model` on a CPU take the faster product; the model is for inference from now on.

    A bfloat16 map's weight is replaced by its laid-out form, unless the input embeddings share it.
    """
    shared = model.get_input_embeddings().weight
    for module in model.modules():
        if type(module) is not nn.Linear or module.weight.device.type != "cpu":
            continue
        if module.weight.dtype == torch.float32:
            module.forward = functools.partial(narrow_linear, module)  # type: ignore[method-assign]
        elif module.weight.dtype == torch.bfloat16 and has_bfloat16(module.weight.device):
            laid_out = lay_out(module.weight)
            module.forward = functools.partial(laid_out_linear, laid_out, module.bias)  # type: ignore[method-assign]
            if module.weight is not shared:
                module.weight = nn.Parameter(laid_out, requires_grad=False)


def narrow_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    """`linear(x)`, x: [..., I] to [..., O], float32."""
    rows = x.numel() // x.shape[-1]
    if not 2 <= rows <= (ROWS_OF_LARGE if linear.out_features >= LARGE else ROWS):
        return F.linear(x, linear.weight, linear.bias)
    y_MO = (linear.weight @ x.reshape(rows, -1).T).T.contiguous()
    if linear.bias is not None:
        y_MO += linear.bias
    return y_MO.reshape(*x.shape[:-1], -1)


@torch.no_grad()
def lay_out(W_OI: Tensor) -> Tensor:
    """A bfloat16 weight in the order in which oneDNN multiplies by it; opaque to everything else."""
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(W_OI.detach(), 1)  # 1: rows to expect
    return laid_out


def laid_out_linear(laid_out_OI: Tensor, bias_O: Tensor | None, x: Tensor) -> Tensor:
    """x·Wᵀ + bias, x: [..., I] to [..., O], bfloat16; the bits of `F.linear`."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out_OI, bias_O, "none", [], "")
    return y
