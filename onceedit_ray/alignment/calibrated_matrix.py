"""The calibrated transfer matrix: centred, one multiplier per model, sparse (algorithm.md §3.2, §3.3).

Real embeddings all point in similar directions, so the rows of the literal matrix are nearly uniform. Three changes
make the relative space sharp: the anchors' mean is subtracted before the cosine, a row of cosines is not L2-normalised,
and the multiplier is chosen so that the median anchor keeps 0.95 of its row's mass on itself. The 32 largest entries of
a row then hold nearly all of its mass.

V  vocabulary   A  anchors   D  embedding   K  kept entries of a row   B  rows of one block   S  anchors sampled
E  input embeddings   C  cosines of centred embeddings   R  transfer matrix
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from onceedit_ray.alignment.devices import block_rows, fastest_device
from onceedit_ray.alignment.in_parallel import cores, in_parallel
from onceedit_ray.alignment.literal_matrix import check_anchor_ids
from onceedit_ray.alignment.nearest import NearestAnchors, whole_sums
from onceedit_ray.alignment.sparse_rows import SparseRows
from onceedit_ray.errors import AlignmentError

KEEP = 32
OWN_MASS = 0.95
_SAMPLE = 512
_STEEPEST = float(1 << 20)


def calibrate(E_AD: Tensor, own_mass: float = OWN_MASS, sample: int = _SAMPLE) -> float:
    """The multiplier with which the median anchor keeps `own_mass` of its row's mass on itself.

    Args:
        E_AD: the anchors' input embeddings, not centred.
        own_mass: in (0, 1), over the whole row, before it is cut to its largest entries.
        sample: number of anchors that are used, evenly spaced, so that the result is reproducible.

    Raises `AlignmentError` if no multiplier achieves this, because most anchors share their embedding with another.
    """
    return _multiplier(_directions(E_AD, E_AD.float().mean(dim=0)), own_mass, sample)


def _multiplier(anchors_AD: Tensor, own_mass: float, sample: int = _SAMPLE) -> float:
    if not 0.0 < own_mass < 1.0:
        raise AlignmentError(f"own mass {own_mass} is outside (0, 1); 0.95 is usual")
    anchors = len(anchors_AD)
    picked_S = torch.linspace(0, anchors - 1, min(sample, anchors), device=anchors_AD.device).long()
    short_SA = anchors_AD[picked_S] @ anchors_AD.T
    short_SA = short_SA.scatter_(1, picked_S[:, None], 1.0).sub_(1.0)  # relative to the own cosine
    scaled_SA = torch.empty_like(short_SA)

    def median_own_mass(multiplier: float) -> float:
        torch.mul(short_SA, multiplier, out=scaled_SA)
        return float((1.0 / scaled_SA.exp_().sum(dim=1)).median())

    low, high = 0.0, 1.0
    while median_own_mass(high) < own_mass:
        low, high = high, high * 2
        if high > _STEEPEST:
            raise AlignmentError(
                f"no multiplier lets the median of {anchors} anchors keep {own_mass} of its mass: most of them share "
                "their embedding with another; check that the weights are those of a trained model"
            )
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if median_own_mass(middle) < own_mass else (low, middle)
    return (low + high) / 2


def build_sparse(
    E_VD: Tensor,
    anchor_ids_A: Tensor,
    keep: int = KEEP,
    own_mass: float = OWN_MASS,
    block: int | None = None,
    *,
    exact: bool = False,
    device: torch.device | None = None,
    on_block: Callable[[int, int], None] | None = None,
) -> SparseRows:
    """The calibrated matrix of one model: the `keep` largest entries of each row, renormalised.

    Args:
        E_VD: input embeddings, any floating dtype, any device; they stay there, and go block by block to `device`.
        anchor_ids_A: int64, rows of `E_VD` that are anchors, without repetition.
        keep: entries kept in each row; fewer where there are fewer anchors.
        own_mass: see `calibrate`.
        block: rows computed at once.
        exact: float32 throughout, even if the hardware multiplies bfloat16 several times faster. Both settings keep the
            same entries: see `NearestAnchors`.
        device: where to compute; `fastest_device` by default.
        on_block: called with (rows done, rows) after each block.

    Entries are float32, largest first, on the CPU; an anchor is always in its own row. Raises `AlignmentError`.
    """
    check_anchor_ids(E_VD, anchor_ids_A)
    vocabulary, anchors = len(E_VD), len(anchor_ids_A)
    keep = min(keep, anchors)
    device = device or fastest_device(E_VD, anchors)
    workers = cores(device)
    block = min(block or block_rows(device, anchors, workers), vocabulary)
    anchor_ids_A = anchor_ids_A.to(E_VD.device)
    E_AD = E_VD[anchor_ids_A].to(device)
    mean_D = E_AD.float().mean(dim=0)
    anchors_AD = _directions(E_AD, mean_D)
    del E_AD
    multiplier = _multiplier(anchors_AD, own_mass)
    nearest = NearestAnchors(anchors_AD, keep, block, exact)
    own_column_V = torch.full((vocabulary,), -1, dtype=torch.int64, device=device)
    own_column_V[anchor_ids_A.to(device)] = torch.arange(anchors, device=device)
    columns_VK = torch.empty(vocabulary, keep, dtype=torch.int32, device=device)
    mass_VK = torch.empty(vocabulary, keep, device=device)

    def fill(rows: slice) -> None:
        C_BK, columns_VK[rows] = nearest(_directions(E_VD[rows].to(device), mean_D), own_column_V[rows])
        mass_VK[rows] = torch.softmax(C_BK * multiplier, dim=1)

    blocks = [slice(start, min(start + block, vocabulary)) for start in range(0, vocabulary, block)]
    done = 0
    with whole_sums():
        for rows in in_parallel(fill, blocks, workers):
            done += rows.stop - rows.start
            if on_block:
                on_block(done, vocabulary)
    return SparseRows(columns_VK.cpu(), mass_VK.cpu(), anchors, multiplier)


def _directions(E_ND: Tensor, mean_D: Tensor) -> Tensor:
    """Centred, of length 1, float32."""
    centred_ND = E_ND.float() - mean_D
    return normalize(centred_ND, dim=1, out=centred_ND)
