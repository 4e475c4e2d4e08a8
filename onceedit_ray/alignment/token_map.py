"""A learnt map from one vocabulary to another, as EVA learns it (Xu et al. 2024, https://arxiv.org/abs/2404.09492).

Linear maps, learnt on the tokens that both vocabularies share, bring both models' embeddings into one space. Every
token is then mapped to the tokens nearest to it there; its text is not used:

    M_x, M_z = argmin Σ_{(i, j) shared} ‖x_i M_x - z_j M_z‖²        in closed form, the way VecMap does it (Artetxe et
                                                                    al. 2018): unit length, centred, unit length,
                                                                    whitened, rotated by U S Vᵀ = svd(X_Aᵀ Z_A), both
                                                                    sides weighed by √S, whitening taken back
    W_ij     = 2 cos(x_i M_x, z_j M_z) - max_i' cos(x_i' M_x, z_j M_z)                   CSLS with one neighbour

Noise is removed from a row of W: the t = 10 largest entries are kept, of them those of 0.1 and more, and a row whose
entries hardly differ (standard deviation at most 0.01, more than 5 of them) is dropped, because its token is near all
tokens. If the models differ in width, the space has the smaller width; VecMap has no rule for this case. This module
knows only two embedding matrices and which of their rows belong together.

X, Z  embeddings   S, T  tokens of each side   A  shared tokens   D, E, R  widths   K  entries kept of a row
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from onceedit_ray.alignment.devices import block_rows
from onceedit_ray.alignment.in_parallel import cores, in_parallel
from onceedit_ray.alignment.nearest import NearestAnchors, whole_sums

KEEP = 10
THRESHOLD = 0.1
STILL = 0.01
FEW = 5
_LEAST_SPREAD = 1e-6
# A token's largest penalty is 1, so [z, -penalty / 2] is at most this long, squared.
_LONGEST = 1.25


@dataclass(frozen=True, eq=False)
class TokenMap:
    """W as its kept entries: `columns_SK` int32, `score_SK` float32, 0 where nothing is kept; [S, K] each."""

    columns_SK: Tensor
    score_SK: Tensor


def learn_token_map(
    X_SD: Tensor,
    Z_TE: Tensor,
    shared_S_A: Tensor,
    shared_T_A: Tensor,
    on_block: Callable[[int, int], None] | None = None,
) -> TokenMap:
    """W between the rows of X and those of Z.

    Args:
        X_SD, Z_TE: embeddings, any floating dtype. shared_S_A, shared_T_A: rows of each that stand for the same token.
        on_block: called with (rows done, rows) after each block of the two passes over the pairs.
    """
    X_SR, Z_TR = shared_space(X_SD, Z_TE, shared_S_A, shared_T_A)
    penalty_T = _nearest(Z_TR, X_SR, 1, on_block)[0][:, 0].clamp(min=0)
    # 2 cos - penalty as an inner product of unit vectors, so that the nearest ones can be found as those of a cosine.
    filler_T = (_LONGEST - 1.0 - penalty_T.square() / 4).clamp(min=0).sqrt()
    columns_TR = torch.cat([Z_TR, -penalty_T[:, None] / 2, filler_T[:, None]], dim=1) / _LONGEST**0.5
    ones = torch.ones(len(X_SR), 1)
    rows_SR = torch.cat([X_SR, ones, torch.zeros_like(ones)], dim=1) / 2**0.5
    cosine_SK, columns_SK = _nearest(rows_SR, columns_TR, KEEP, on_block)
    return truncated(columns_SK, 2 * (2 * _LONGEST) ** 0.5 * cosine_SK)


def truncated(columns_SK: Tensor, score_SK: Tensor) -> TokenMap:
    """The map after the three cuts above: `columns_SK` and `score_SK` are the largest entries of each row already."""
    kept_SK = score_SK >= THRESHOLD
    count_S = kept_SK.sum(1).clamp(min=1)
    mean_S = (score_SK * kept_SK).sum(1) / count_S
    variance_S = ((score_SK - mean_S[:, None]).square() * kept_SK).sum(1) / count_S
    still_S = (variance_S.sqrt() <= STILL) & (count_S > FEW)
    return TokenMap(columns_SK.int(), score_SK * (kept_SK & ~still_S[:, None]))


def shared_space(X_SD: Tensor, Z_TE: Tensor, shared_S_A: Tensor, shared_T_A: Tensor) -> tuple[Tensor, Tensor]:
    """X M_x and Z M_z, rows of length 1, [S, R] and [T, R] float32 with R the smaller width."""
    X_SD, Z_TE = _prepared(X_SD), _prepared(Z_TE)
    X_AD, Z_AE = X_SD[shared_S_A].double(), Z_TE[shared_T_A].double()
    white_DD, back_DD = _whitening(X_AD)
    white_EE, back_EE = _whitening(Z_AE)
    U_DR, S_R, V_RE = torch.linalg.svd((X_AD @ white_DD).T @ (Z_AE @ white_EE), full_matrices=False)
    root_RR = S_R.sqrt().diag()
    M_DR = white_DD @ U_DR @ root_RR @ (U_DR.T @ back_DD @ U_DR)
    M_ER = white_EE @ V_RE.T @ root_RR @ (V_RE @ back_EE @ V_RE.T)
    return normalize(X_SD @ M_DR.float(), dim=1), normalize(Z_TE @ M_ER.float(), dim=1)


def _prepared(E_ND: Tensor) -> Tensor:
    E_ND = normalize(E_ND.float(), dim=1)
    return normalize(E_ND - E_ND.mean(dim=0), dim=1)


def _whitening(E_AD: Tensor) -> tuple[Tensor, Tensor]:
    """(EᵀE)^(-1/2) and its inverse, [D, D]."""
    spread_D, axes_DD = torch.linalg.eigh(E_AD.T @ E_AD)
    root_D = spread_D.clamp(min=_LEAST_SPREAD * float(spread_D.max())).sqrt()
    return axes_DD @ (1 / root_D).diag() @ axes_DD.T, axes_DD @ root_D.diag() @ axes_DD.T


def _nearest(
    rows_ND: Tensor, columns_MD: Tensor, keep: int, on_block: Callable[[int, int], None] | None
) -> tuple[Tensor, Tensor]:
    """The `keep` largest cosines of each row with the columns, and the indices of those columns, [N, K] each."""
    keep = min(keep, len(columns_MD))
    workers = cores(columns_MD.device)
    block = min(block_rows(columns_MD.device, len(columns_MD), workers), len(rows_ND))
    nearest = NearestAnchors(columns_MD, keep, block)
    cosine_NK = torch.empty(len(rows_ND), keep)
    at_NK = torch.empty(len(rows_ND), keep, dtype=torch.int64)
    none_B = torch.full((block,), -1)

    def fill(rows: slice) -> None:
        cosine_NK[rows], at_NK[rows] = nearest(rows_ND[rows], none_B[: len(rows_ND[rows])])

    done = 0
    with whole_sums():
        blocks = [slice(start, min(start + block, len(rows_ND))) for start in range(0, len(rows_ND), block)]
        for rows in in_parallel(fill, blocks, workers):
            done += rows.stop - rows.start
            if on_block:
                on_block(done, len(rows_ND))
    return cosine_NK, at_NK
