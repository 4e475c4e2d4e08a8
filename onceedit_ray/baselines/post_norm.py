"""How an MLP's output enters the residual stream: as it is, or through a norm of its own (Gemma 2 and 3, OLMo 2).

MEMIT distributes a change of the residual stream over MLPs. If there is a norm between, the MLP's own output must
change by another vector. The norm is found from the modules that run, not from their names.

Shapes: N keys, D model width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from onceedit_ray.baselines.mlps import Mlp


@torch.no_grad()
def norm_after(model: PreTrainedModel, mlp: Mlp) -> nn.Module | None:
    """The layer's module whose input is the MLP's output; None if the output is added directly."""
    layer = model.get_submodule(mlp.layer_path)
    given: list[Tensor] = []
    found: list[nn.Module] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        given.append(output)

    def compare(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if given and arguments and arguments[0] is given[-1]:
            found.append(module)

    handles = [mlp.projection.register_forward_hook(keep)]
    handles += [child.register_forward_pre_hook(compare) for child in layer.children()]
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    norms = [module for module in found if not list(module.children()) and not isinstance(module, nn.Dropout)]
    return norms[0] if norms else None


@torch.no_grad()
def value_change(norm: nn.Module | None, m_ND: Tensor, r_ND: Tensor) -> Tensor:
    """The change of the MLP's outputs m for which the residual stream changes by r, as nearly as possible; [N, D]
    float32.

    Without a norm it is r itself. A root-mean-square norm n(m) = g m / rms(m) gives outputs of one length only. The
    result leads to the output nearest to n(m) + r, with an m of unchanged length, since the norm ignores the length of
    m.
    """
    if norm is None:
        return r_ND
    gain_D = norm(torch.ones_like(m_ND[:1]))[0]
    direction_ND = nearest_direction(gain_D, norm(m_ND) + r_ND)
    return direction_ND.to(m_ND) * m_ND.norm(dim=1, keepdim=True) - m_ND


def nearest_direction(gain_D: Tensor, wanted_ND: Tensor) -> Tensor:
    """The u of length 1 for which √D g u is nearest to `wanted_ND`, [N, D] float64 on the CPU.

    u = g t / (g² + μ) with t = wanted / √D, with μ such that |u| = 1: Lagrange's condition, solved by bisection.
    """
    g_D, t_ND = gain_D.cpu().double(), wanted_ND.cpu().double() / math.sqrt(len(gain_D))
    square_D = g_D.square()
    # The length falls as μ grows from -min g², where it has no bound.
    low_N1 = (-square_D.min()).expand(len(t_ND), 1)
    high_N1 = (g_D * t_ND).norm(dim=1, keepdim=True)
    for _ in range(100):
        middle_N1 = (low_N1 + high_N1) / 2
        too_long_N1 = (g_D * t_ND / (square_D + middle_N1)).norm(dim=1, keepdim=True) > 1
        low_N1 = torch.where(too_long_N1, middle_N1, low_N1)
        high_N1 = torch.where(too_long_N1, high_N1, middle_N1)
    u_ND = g_D * t_ND / (square_D + high_N1)
    return u_ND / u_ND.norm(dim=1, keepdim=True)
