"""The literal transfer matrix: eq. 15-16 as DEEPEN's released code computes them (algorithm.md §1, §2, §3.1).

Cosines to the anchors' input embeddings, each row L2-normalised, softmax with a multiplier of 100. The whole matrix is
never held in memory: it gives rows on demand, blocks in order, or the winner of each column. This module does not know
the text of tokens.

V  vocabulary   A  anchors   D  embedding   N  rows asked for   B  rows of one block
E  input embeddings   C  cosines   R  transfer matrix
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from onceedit_ray.errors import AlignmentError

MULTIPLIER = 100.0
# Entries of one block: large enough for a fast matrix product, small enough for the caches (128 MiB).
BLOCK_ENTRIES = 1 << 25
KEPT_ROWS = 2048


class LiteralMatrix:
    """R_VA of one model; the requested parts are computed on demand.

    Args:
        E_VD: input embeddings, any floating dtype, any device; computed in float32 there.
        anchor_ids_A: int64, rows of `E_VD` that are anchors, the columns of R.
        multiplier: of the softmax; l2: whether a row of cosines is L2-normalised before the softmax, as in DEEPEN's
            code.
    """

    def __init__(self, E_VD: Tensor, anchor_ids_A: Tensor, multiplier: float = MULTIPLIER, l2: bool = True) -> None:
        check_anchor_ids(E_VD, anchor_ids_A)
        self._E_VD = E_VD
        self._anchors_AD = normalize(E_VD[anchor_ids_A.to(E_VD.device)].float(), dim=1)
        self._multiplier = multiplier
        self._l2 = l2
        self._recent: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._E_VD)

    def rows(self, row_ids_N: Tensor) -> Tensor:
        """R_NA, float32, on the embeddings' device; every row sums to 1.

        The rows read last are cached, since strategies often read the rows of the same tokens.
        """
        ids = row_ids_N.tolist()
        missing = [row for row in dict.fromkeys(ids) if row not in self._recent]
        if missing:
            at = torch.tensor(missing, device=self._E_VD.device)
            self._recent.update(
                (row, R_A.clone()) for row, R_A in zip(missing, self._softmax(self._E_VD[at]), strict=True)
            )
        R_NA = torch.stack([self._recent[row] for row in ids]) if ids else self._softmax(self._E_VD[:0])
        while len(self._recent) > KEPT_ROWS:
            del self._recent[next(iter(self._recent))]
        return R_NA

    def blocks(self, row_ids_N: Tensor | None = None, block: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """`(row_ids_B, R_BA)` over the rows asked for (all, in order, by default), `block` rows at a time.

        A block is overwritten when the next one is asked for.
        """
        device, anchors = self._E_VD.device, len(self._anchors_AD)
        row_ids_N = torch.arange(len(self._E_VD), device=device) if row_ids_N is None else row_ids_N.to(device)
        block = min(block or max(1, BLOCK_ENTRIES // anchors), max(1, len(row_ids_N)))
        buffer_BA = torch.empty(block, anchors, device=device)
        for row_ids_B in row_ids_N.split(block):
            yield row_ids_B, self._softmax(self._E_VD[row_ids_B], buffer_BA[: len(row_ids_B)])

    def column_winners(
        self,
        row_ids_N: Tensor | None = None,
        block: int | None = None,
        on_block: Callable[[int, int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`argmax_j R[j, a]` and its mass for every anchor, the result of the search of eq. 9 (algorithm.md §3.1).
        Args: row_ids_N: the rows that may win, in ascending order; every row by default.
            block: rows computed at once. on_block: called with (rows done, rows) after each block.

        Returns `(winner_A int64, winner_mass_A float32)` on the CPU; ties go to the lowest id.
        """
        device, anchors = self._E_VD.device, len(self._anchors_AD)
        winner_A = torch.zeros(anchors, dtype=torch.int64, device=device)
        mass_A = torch.full((anchors,), -1.0, device=device)
        done, rows = 0, len(self._E_VD) if row_ids_N is None else len(row_ids_N)
        for row_ids_B, R_BA in self.blocks(row_ids_N, block):
            beaten = (R_BA.amax(dim=0) > mass_A).nonzero().flatten()
            best, at = R_BA[:, beaten].max(dim=0)
            mass_A[beaten], winner_A[beaten] = best, row_ids_B[at]
            done += len(row_ids_B)
            if on_block:
                on_block(done, rows)
        return winner_A.cpu(), mass_A.cpu()

    def _softmax(self, E_BD: Tensor, out_BA: Tensor | None = None) -> Tensor:
        C_BA = torch.mm(normalize(E_BD.float(), dim=1), self._anchors_AD.T, out=out_BA)
        norm_B1 = torch.linalg.vector_norm(C_BA, dim=1, keepdim=True).clamp_(min=1e-12) if self._l2 else 1.0
        C_BA.mul_(self._multiplier / norm_B1)
        return torch.softmax(C_BA, dim=1, out=C_BA)


def literal_rows(
    E_VD: Tensor, anchor_ids_A: Tensor, row_ids_N: Tensor, multiplier: float = MULTIPLIER, l2: bool = True
) -> Tensor:
    """Rows of the literal matrix: R_NA, float32 (eq. 15-16; `LiteralMatrix` serves repeated calls)."""
    return LiteralMatrix(E_VD, anchor_ids_A, multiplier, l2).rows(row_ids_N)


def literal_blocks(
    E_VD: Tensor,
    anchor_ids_A: Tensor,
    block: int | None = None,
    multiplier: float = MULTIPLIER,
    l2: bool = True,
) -> Iterator[Tensor]:
    """The whole literal matrix, `block` rows at a time: R_BA, float32, overwritten by the next."""
    for _, R_BA in LiteralMatrix(E_VD, anchor_ids_A, multiplier, l2).blocks(block=block):
        yield R_BA


def column_winners(
    E_VD: Tensor,
    anchor_ids_A: Tensor,
    row_ids_N: Tensor | None = None,
    block: int | None = None,
    multiplier: float = MULTIPLIER,
    l2: bool = True,
) -> tuple[Tensor, Tensor]:
    """`(winner_A int64, winner_mass_A float32)` of the literal matrix; see `LiteralMatrix.column_winners`."""
    return LiteralMatrix(E_VD, anchor_ids_A, multiplier, l2).column_winners(row_ids_N, block)


def check_anchor_ids(E_VD: Tensor, anchor_ids_A: Tensor) -> None:
    """Raises `AlignmentError` unless there are anchors and all of them are rows of `E_VD`."""
    if len(anchor_ids_A) == 0:
        raise AlignmentError("there are no anchors; the two vocabularies have no token in common")
    if int(anchor_ids_A.max()) >= len(E_VD) or int(anchor_ids_A.min()) < 0:
        raise AlignmentError(
            f"anchor id {int(anchor_ids_A.max())} is outside the {len(E_VD)} rows of the embeddings; "
            "the vocabulary and the weights are of different models"
        )
