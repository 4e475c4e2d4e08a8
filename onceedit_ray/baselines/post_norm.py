"""How an MLP's output enters the residual stream: as it is, scaled (Granite, MiniCPM, Falcon-H1), or through a norm.

MEMIT distributes a change of the residual stream over MLPs. If there is a norm (Gemma 2 and 3, OLMo 2) or a factor
between, the MLP's own output must change by another vector. The norm is found from the modules that run, the factor
from the layer's response to a small change; neither from names.

Shapes: N keys, D model width, T positions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from onceedit_ray.baselines.activations import module_outputs, whole_mask
from onceedit_ray.baselines.mlps import Mlp
from onceedit_ray.errors import ModelError

_TRIED = 5
_MISFIT = 0.1
_ONE = 0.01
"""Positions at which a factor is measured; the share that one factor may leave unexplained; how near to 1 counts as 1.
"""


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
        ids_BT = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        model(input_ids=ids_BT, attention_mask=whole_mask(model, ids_BT), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    norms = [module for module in found if not list(module.children()) and not isinstance(module, nn.Dropout)]
    return norms[0] if norms else None


@torch.no_grad()
def residual_factor(model: PreTrainedModel, mlp: Mlp) -> float:
    """By how much a change of the MLP's output is multiplied on its way into the residual stream; 1.0 for most models.

    Raises `ModelError` if there is no single factor: a norm follows the sum (post-norm layers such as OPT-350m's), or
    the MLP's share depends on the token (a gated shared expert).
    """
    layer = model.get_submodule(mlp.layer_path)
    ids_1T = (torch.arange(1, 1 + _TRIED, device=model.device) % model.get_input_embeddings().weight.shape[0])[None]
    mask_1T = torch.ones_like(ids_1T)
    (before,) = module_outputs(model, [layer], ids_1T, mask_1T)
    (m,) = module_outputs(model, [mlp.projection], ids_1T, mask_1T)
    generator = torch.Generator().manual_seed(0)
    change_TD = torch.randn(_TRIED, before.shape[-1], generator=generator).to(before)
    change_TD *= m.reshape(_TRIED, -1).float().norm() / change_TD.float().norm()

    def add(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + change_TD.reshape(output.shape)

    handle = mlp.projection.register_forward_hook(add)
    try:
        (after,) = module_outputs(model, [layer], ids_1T, mask_1T)
    finally:
        handle.remove()
    gain_TD = (after.float() - before.float()).reshape(_TRIED, -1)
    wanted_TD = change_TD.float()
    factor = float((gain_TD * wanted_TD).sum() / wanted_TD.square().sum())
    if float((gain_TD - factor * wanted_TD).norm()) > _MISFIT * float(gain_TD.norm()):
        raise ModelError(
            f"{mlp.layer_path} of {type(model).__name__} passes its MLP's output on neither as it is nor by one factor "
            "(a norm after the sum, or a gated expert); choose an editor that does not spread a change over layers"
        )
    return 1.0 if abs(factor - 1.0) < _ONE else factor


@torch.no_grad()
def value_change(norm: nn.Module | None, m_ND: Tensor, r_ND: Tensor, factor: float = 1.0) -> Tensor:
    """The change of the MLP's outputs m for which the residual stream changes by r, as nearly as possible; [N, D]
    float32.

    Without a norm it is r, divided by the layer's factor. A root-mean-square norm n(m) = g m / rms(m) gives outputs of
    one length only. The result leads to the output nearest to n(m) + r, with an m of unchanged length, since the norm
    ignores the length of m.
    """
    if norm is None:
        return r_ND if factor == 1.0 else r_ND / factor
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
