"""The closed forms of ROME and MEMIT: the change of a projection W that gives keys new values and changes the values of
other keys least.

Both weigh a change by C = E[k kᵀ], see `baselines.second_moment`. Systems are solved in float64, since the statistics
of real layers span many orders of magnitude; if a device has no float64, on the CPU.

Shapes: F inputs of the projection, D outputs, N keys.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from onceedit_ray.baselines.mlps import Mlp

RIDGE = 1e-6
"""Added to C's diagonal, as a share of its mean: keeps C invertible in directions that do not occur in the corpus."""


def factor(C_FF: Tensor, device: torch.device) -> Tensor:
    """The Cholesky factor of C with its ridge, [F, F] float64."""
    return torch.linalg.cholesky(_ridged(C_FF, device))


def rank_one(factor_FF: Tensor, k_F: Tensor, delta_D: Tensor) -> Tensor:
    """δ (C⁻¹ k)ᵀ / ((C⁻¹ k)ᵀ k): adds δ to W k, and nothing to the value of a key orthogonal to C⁻¹ k.

    Meng et al. 2022, eq. 2, with δ = v* - W k*. factor: of C. [D, F] float64.
    """
    k_F = k_F.to(factor_FF)
    u_F = torch.cholesky_solve(k_F[:, None], factor_FF)[:, 0]
    return torch.outer(delta_D.to(factor_FF), u_F / u_F.dot(k_F))


def least_squares(C_FF: Tensor, weight: float, K_FN: Tensor, R_DN: Tensor) -> Tensor:
    """Δ = R Kᵀ (λ C + K Kᵀ)⁻¹: moves W K towards W K + R, with weight λ for ordinary keys.

    Meng et al. 2023, eq. 14; it solves Δ (λ C + K Kᵀ) = R Kᵀ. weight: λ. [D, F] float64.
    """
    C_FF = _ridged(C_FF, K_FN.device)
    K_FN = K_FN.to(C_FF)
    factor_FF = torch.linalg.cholesky(weight * C_FF + K_FN @ K_FN.T)
    return torch.cholesky_solve(K_FN @ R_DN.to(C_FF).T, factor_FF).T


def changed_weight(mlp: Mlp, update_DF: Tensor) -> Tensor:
    """The projection's weight after W + Δ, in its own layout, dtype and device."""
    weight = mlp.projection.weight.detach()
    update = update_DF.T if isinstance(mlp.projection, Conv1D) else update_DF
    return (weight.to(update) + update).to(weight)


def _ridged(C_FF: Tensor, device: torch.device) -> Tensor:
    C_FF = C_FF.to("cpu" if device.type == "mps" else device).double()
    return C_FF + RIDGE * C_FF.diagonal().mean() * torch.eye(len(C_FF), dtype=C_FF.dtype, device=C_FF.device)
