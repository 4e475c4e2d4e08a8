"""Maps the relative space back to the target's tokens: the search of eq. 9-11, as in the paper and in closed form.

    p* = argmin_p loss(p·R_l, aim)

Zero start and one-hot aim (eq. 10, 11): the gradient is monotone in R_l[j, a*], so the search ends at the column argmax
of R_l at the aimed anchor (`column_argmax`). DEEPEN starts at the target's own distribution and aims at r̄. Both run
over the given rows: the whole vocabulary, or candidates if the dense matrix does not fit into memory.

Shapes: C candidate tokens, A anchors. All float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 5
LEARNING_RATE = 0.15
"""DEEPEN's released settings: AdamW, cosine schedule over 10 steps down to a quarter of the rate."""


def gradient_search(
    R_CA: Tensor, aim_A: Tensor, start_C: Tensor, steps: int = STEPS, rate: float = LEARNING_RATE
) -> Tensor:
    """The search as in DEEPEN: logits over candidates after `steps` gradient steps.

    Args:
        R_CA: rows of the target's transfer matrix.
        aim_A: the target distribution; r̄ itself (DEEPEN) or a one-hot vector (eq. 11).
        start_C: logits to start from; the target's own (DEEPEN) or zeros (eq. 10).
    """
    x_C = start_C.detach().clone().float().requires_grad_(True)
    optimizer = torch.optim.AdamW([x_C], lr=rate, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=rate / 4)
    for _ in range(steps):
        with torch.enable_grad():
            r_A = torch.softmax(x_C, -1) @ R_CA
            loss = -(aim_A * r_A.clamp_min(1e-12).log()).mean()  # KL(aim, r) up to a constant
            (gradient,) = torch.autograd.grad(loss, x_C)
        x_C.grad = gradient
        optimizer.step()
        schedule.step()
    return x_C.detach()


def column_argmax(R_CA: Tensor, anchor: int) -> int:
    """Result of the zero-start search for a one-hot aim: argmax over candidates of R_l[:, anchor]; lowest on a tie."""
    column_C = R_CA[:, anchor]
    return int(torch.nonzero(column_C == column_C.max())[0])
