"""Faster linear maps for a few rows on a CPU: what verifying a short draft, or a small batch, spends its time on.

BLAS reads the weight once for one row; for two to eight rows of float32 it takes two to three times as long when asked
for x·Wᵀ, and hardly longer than for one when asked for W·xᵀ. Half precision, one row and many rows are left as they
are, so a request alone runs the arithmetic of `transformers`.

Shapes: M rows, I inputs, O outputs.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

ROWS = 4
ROWS_OF_LARGE = 8
LARGE = 16_384
"""Most rows for which W·xᵀ is the faster one; more of them for maps with at least `LARGE` outputs, the output head."""


def speed_up_narrow_products(model: PreTrainedModel) -> None:
    """Let the float32 linear maps of `model` choose the faster product; other maps and devices are left alone."""
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32:
            module.forward = functools.partial(narrow_linear, module)  # type: ignore[method-assign]


def narrow_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    """`linear(x)`, x: [..., I] to [..., O]."""
    rows = x.numel() // x.shape[-1]
    if not 2 <= rows <= (ROWS_OF_LARGE if linear.out_features >= LARGE else ROWS):
        return F.linear(x, linear.weight, linear.bias)
    y_MO = (linear.weight @ x.reshape(rows, -1).T).T.contiguous()
    if linear.bias is not None:
        y_MO += linear.bias
    return y_MO.reshape(*x.shape[:-1], -1)
