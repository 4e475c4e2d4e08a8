"""The anchors nearest to embeddings by cosine, exactly, at the speed of a bfloat16 product (algorithm.md §3.3).

If the hardware multiplies bfloat16 faster, a bfloat16 product proposes anchors, whose cosines are then computed in
float32. The rounding error of a cosine is bounded for each row. A row whose proposals are not proven to contain its
nearest anchors gets more proposals, then a float32 product. This module does not know what the cosines are for.

A  anchors   P  anchors, padded   D  embedding   B  rows of one block   K  anchors wanted of each row
M  anchors proposed for them   U  rows not proven yet   E  embeddings   C  cosines
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import pad

from onceedit_ray.alignment.devices import gathered_at_once
from onceedit_ray.alignment.largest import largest, padded_width

# Proposals beyond those wanted. Measured for 32 wanted anchors on 3,072 rows sampled from the embeddings of Gemma and
# of SmolLM2 each: with 64 proposals every row is proven, with 48 proposals 3 to 4 % of the rows are not.
_MARGIN = 32
_SECOND_TRY = 4
_BFLOAT16_STEP = 2.0**-8
_FLOAT32_STEP = 2.0**-23
# A score above every cosine: keeps an anchor in its own row in spite of rounding and duplicates.
_FIRST = 2.0


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class NearestAnchors:
    """Finds the nearest anchors block by block, on the anchors' device; threads may share it, each has its own buffer.

    Args:
        anchors_AD: float32, every row of length 1.
        keep: anchors wanted of each row, at most A.
        block: rows of the largest block.
        exact: float32 throughout on any hardware.
    """

    def __init__(self, anchors_AD: Tensor, keep: int, block: int, exact: bool = False) -> None:
        self._anchors = len(anchors_AD)
        self._keep, self._proposed = keep, keep + _MARGIN
        self._proposes = not exact and self._proposed < self._anchors and bfloat16_is_fast(anchors_AD.device)
        self._anchors_PD = pad(anchors_AD, (0, 0, 0, padded_width(self._anchors) - self._anchors))
        self._factor_PD = self._anchors_PD.bfloat16() if self._proposes else self._anchors_PD
        self._anchor_error = _rounding(self._anchors_PD).max() if self._proposes else torch.zeros(())
        self._block = block
        self._of_thread = threading.local()

    def __call__(self, rows_BD: Tensor, own_column_B: Tensor) -> tuple[Tensor, Tensor]:
        """`(C_BK float32, columns_BK int64)`, nearest first.

        Args:
            rows_BD: float32, of length 1 or 0. own_column_B: a row's own anchor, which it always keeps; -1 for none.
        """
        buffer_BP = self._buffer()[: len(rows_BD)]
        C_BP = torch.mm(rows_BD.to(buffer_BP.dtype), self._factor_PD.T, out=buffer_BP)
        _put_first(C_BP, own_column_B)
        if not self._proposes:
            return self._nearest(C_BP)
        C_BK, columns_BK, unproven_U = self._verified(rows_BD, C_BP, own_column_B, self._proposed)
        if len(unproven_U):
            C_BK[unproven_U], columns_BK[unproven_U] = self._second_try(
                rows_BD[unproven_U], C_BP[unproven_U], own_column_B[unproven_U]
            )
        return C_BK, columns_BK

    def _buffer(self) -> Tensor:
        if not hasattr(self._of_thread, "C_BP"):
            self._of_thread.C_BP = self._factor_PD.new_empty(self._block, len(self._factor_PD))
        buffer_BP: Tensor = self._of_thread.C_BP
        return buffer_BP

    def _nearest(self, C_BP: Tensor) -> tuple[Tensor, Tensor]:
        at_BK = largest(C_BP, self._keep, self._anchors)
        C_BK, order_BK = C_BP.gather(1, at_BK).sort(dim=1, descending=True)
        return C_BK.clamp_(max=1.0), at_BK.gather(1, order_BK)

    def _second_try(self, rows_UD: Tensor, C_UP: Tensor, own_column_U: Tensor) -> tuple[Tensor, Tensor]:
        """What `__call__` returns, for rows whose cosines lie too close for the first proposals."""
        proposed = min(self._proposed * _SECOND_TRY, self._anchors)
        C_UK, columns_UK, unproven = self._verified(rows_UD, C_UP, own_column_U, proposed)
        for some in unproven.split(max(1, self._block // 4)):  # limits the memory to that of a block
            exact_UP = torch.mm(rows_UD[some], self._anchors_PD.T)
            _put_first(exact_UP, own_column_U[some])
            C_UK[some], columns_UK[some] = self._nearest(exact_UP)
        return C_UK, columns_UK

    def _verified(
        self, rows_BD: Tensor, C_BP: Tensor, own_column_B: Tensor, proposed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest of `proposed` proposals, and the rows for which another anchor might be nearer."""
        proposed_BM = largest(C_BP, proposed, self._anchors)
        C_BM = self._score(rows_BD, proposed_BM)
        C_BM.masked_fill_(proposed_BM == own_column_B[:, None], _FIRST)
        C_BK, at_BK = C_BM.topk(self._keep, dim=1)
        left_out_B = C_BP.gather(1, proposed_BM).amin(dim=1).float()
        is_proven_B = C_BK[:, -1] >= left_out_B + self._error(rows_BD, left_out_B)
        return C_BK.clamp_(max=1.0), proposed_BM.gather(1, at_BK), (~is_proven_B).nonzero().flatten()

    def _error(self, rows_BD: Tensor, cosine_B: Tensor) -> Tensor:
        """How far the cosine of an anchor can exceed `cosine_B` if its bfloat16 cosine is at most `cosine_B`.

        The bound adds Cauchy-Schwarz for the rounding of both factors, the worst case of the sums, and half a unit in
        the last place of the result.
        """
        factors_B = _rounding(rows_BD) + (1 + _BFLOAT16_STEP) * self._anchor_error
        return factors_B + 2 * _FLOAT32_STEP * rows_BD.shape[1] + _BFLOAT16_STEP * cosine_B.abs()

    def _score(self, rows_BD: Tensor, columns_BM: Tensor) -> Tensor:
        """The cosines of chosen pairs, C_BM, in float32."""
        dim, proposed = rows_BD.shape[1], columns_BM.shape[1]
        at_once = max(1, gathered_at_once(rows_BD.device) // (dim * proposed))
        C_BM = rows_BD.new_empty(columns_BM.shape)
        chosen = rows_BD.new_empty(min(at_once, len(rows_BD)) * proposed, dim)
        pieces = (rows_BD.split(at_once), columns_BM.split(at_once), C_BM.split(at_once))
        for rows, columns, out in zip(*pieces, strict=True):
            near = torch.index_select(self._anchors_PD, 0, columns.flatten(), out=chosen[: columns.numel()])
            torch.bmm(rows[:, None], near.unflatten(0, columns.shape).mT, out=out[:, None])
        return C_BM


@contextmanager
def whole_sums() -> Iterator[None]:
    """Prevents cuBLAS from adding the parts of a bfloat16 product in bfloat16, which the bound does not cover."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before


def _rounding(x_ND: Tensor) -> Tensor:
    """The length of each row's rounding error in bfloat16."""
    return torch.linalg.vector_norm(x_ND - x_ND.bfloat16().float(), dim=1)


def _put_first(C_BP: Tensor, own_column_B: Tensor) -> None:
    has_own = (own_column_B >= 0).nonzero().flatten()
    C_BP[has_own, own_column_B[has_own]] = _FIRST
