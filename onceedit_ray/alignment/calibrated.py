"""The calibrated transfer matrix: centred, one multiplier per model, sparse (algorithm.md §3.2, §3.3).

Real embeddings all point much the same way, so the literal matrix says nothing. Taking the anchors' mean away before
the cosine, leaving a row of cosines as it is (no L2 norm) and choosing the multiplier so that the median anchor keeps
0.95 of its own mass makes the relative space sharp; a row's 32 largest entries are then nearly all of it.

V  vocabulary   A  anchors   D  embedding   K  kept entries of a row   M  candidates for them   B  rows of one block
S  anchors sampled   E  input embeddings   C  cosines of centred embeddings   R  transfer matrix
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from onceedit_ray.alignment.literal import BLOCK_ENTRIES, check_anchor_ids
from onceedit_ray.alignment.sparse_rows import SparseRows
from onceedit_ray.errors import AlignmentError

KEEP = 32
OWN_MASS = 0.95
_SAMPLE = 512
_STEEPEST = float(1 << 20)
# Candidates beyond `keep` that the bfloat16 pass proposes, so that its rounding cannot lose an entry that counts.
_MARGIN = 16
# Above every cosine: keeps an anchor in its own row whatever rounding or duplicates do.
_FIRST = 2.0


def calibrate(E_AD: Tensor, own_mass: float = OWN_MASS, sample: int = _SAMPLE) -> float:
    """The multiplier with which the median anchor keeps `own_mass` of its row's mass on itself.

    Args:
        E_AD: the anchors' input embeddings, not centred.
        own_mass: in (0, 1), over the whole row, before it is cut to its largest entries.
        sample: anchors looked at, evenly spaced, so that the result is reproducible.

    Raises `AlignmentError` where no multiplier does it: most anchors share their embedding with another.
    """
    if not 0.0 < own_mass < 1.0:
        raise AlignmentError(f"own mass {own_mass} is outside (0, 1); 0.95 is usual")
    centred_AD = normalize(E_AD.float() - E_AD.float().mean(dim=0), dim=1)
    picked_S = torch.linspace(0, len(centred_AD) - 1, min(sample, len(centred_AD)), device=E_AD.device).long()
    short_SA = centred_AD[picked_S] @ centred_AD.T
    short_SA = short_SA.scatter_(1, picked_S[:, None], 1.0).sub_(1.0)  # how far each cosine is below the own one

    def median_own_mass(multiplier: float) -> float:
        return float((1.0 / torch.exp(short_SA * multiplier).sum(dim=1)).median())

    low, high = 0.0, 1.0
    while median_own_mass(high) < own_mass:
        low, high = high, high * 2
        if high > _STEEPEST:
            raise AlignmentError(
                f"no multiplier lets the median of {len(E_AD)} anchors keep {own_mass} of its mass: most of them share "
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
    on_block: Callable[[int, int], None] | None = None,
) -> SparseRows:
    """The calibrated matrix of one model: the `keep` largest entries of each row, renormalised.

    Args:
        E_VD: input embeddings, any floating dtype, any device.
        anchor_ids_A: int64, rows of `E_VD` that are anchors, without repetition.
        keep: entries kept in each row; fewer where there are fewer anchors.
        own_mass: see `calibrate`.
        block: rows computed at once.
        exact: float32 throughout, also where the processor multiplies bfloat16 several times faster. There a first
            pass in bfloat16 only proposes candidates; what is stored is computed in float32 either way.
        on_block: called with (rows done, rows) after each block.

    Entries are float32, largest first; an anchor is always in its own row. Raises `AlignmentError`.
    """
    check_anchor_ids(E_VD, anchor_ids_A)
    device, anchors = E_VD.device, len(anchor_ids_A)
    anchor_ids_A, keep = anchor_ids_A.to(device), min(keep, anchors)
    block = min(block or max(1, BLOCK_ENTRIES // anchors), len(E_VD))
    mean_D = E_VD[anchor_ids_A].float().mean(dim=0)
    multiplier = calibrate(E_VD[anchor_ids_A], own_mass)
    nearest = _NearestAnchors(normalize(E_VD[anchor_ids_A].float() - mean_D, dim=1), keep, block, exact)
    own_column_V = torch.full((len(E_VD),), -1, dtype=torch.int64, device=device)
    own_column_V[anchor_ids_A] = torch.arange(anchors, device=device)
    columns_VK = torch.empty(len(E_VD), keep, dtype=torch.int32)
    mass_VK = torch.empty(len(E_VD), keep)
    for start in range(0, len(E_VD), block):
        rows = slice(start, min(start + block, len(E_VD)))
        C_BK, columns_BK = nearest(normalize(E_VD[rows].float() - mean_D, dim=1), own_column_V[rows])
        columns_VK[rows] = columns_BK.to("cpu", torch.int32)
        mass_VK[rows] = torch.softmax(C_BK * multiplier, dim=1).cpu()
        if on_block:
            on_block(rows.stop, len(E_VD))
    return SparseRows(columns_VK, mass_VK, anchors, multiplier)


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware, as torch reports it; GPUs need no detour."""
    if device.type != "cpu":
        return False
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class _NearestAnchors:
    """The anchors nearest to each row of a block, by cosine, with buffers that all blocks share."""

    def __init__(self, anchors_AD: Tensor, keep: int, block: int, exact: bool) -> None:
        anchors = len(anchors_AD)
        self._anchors_AD = anchors_AD
        self._keep = keep
        self._proposes = not exact and keep + _MARGIN < anchors and bfloat16_is_fast(anchors_AD.device)
        self._factor_DA = (anchors_AD.bfloat16() if self._proposes else anchors_AD).T
        self._C_BA = torch.empty(block, anchors, dtype=self._factor_DA.dtype, device=anchors_AD.device)

    def __call__(self, rows_BD: Tensor, own_column_B: Tensor) -> tuple[Tensor, Tensor]:
        """`(C_BK float32, columns_BK)`, largest first; both inputs' vectors have length 1."""
        C_BA = torch.mm(rows_BD.to(self._factor_DA.dtype), self._factor_DA, out=self._C_BA[: len(rows_BD)])
        is_anchor = (own_column_B >= 0).nonzero().flatten()
        C_BA[is_anchor, own_column_B[is_anchor]] = _FIRST
        if not self._proposes:
            C_BK, columns_BK = C_BA.topk(self._keep, dim=1)
            return C_BK.clamp_(max=1.0), columns_BK
        proposed_BM = C_BA.topk(self._keep + _MARGIN, dim=1, sorted=False).indices
        C_BM = self._score(rows_BD, proposed_BM)
        C_BM[proposed_BM == own_column_B[:, None]] = _FIRST
        C_BK, at_BK = C_BM.topk(self._keep, dim=1)
        return C_BK.clamp_(max=1.0), proposed_BM.gather(1, at_BK)

    def _score(self, rows_BD: Tensor, columns_BM: Tensor) -> Tensor:
        # Row by row: what one row needs fits the cache, and where other processes compete for the cores, waiting for
        # torch's threads at every small operation costs far more than this loop.
        pairs = zip(rows_BD, columns_BM, strict=True)
        return torch.stack([torch.mv(self._anchors_AD.index_select(0, columns_M), row_D) for row_D, columns_M in pairs])
