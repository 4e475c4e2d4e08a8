"""A transfer matrix of which each row keeps its few largest entries, with the operations that fusion needs. This module
does not know how the entries were computed.

V  vocabulary   A  anchors   K  kept entries of a row   T  tokens of a sparse distribution
N  rows chosen   E  entries of those rows
p  distribution over a vocabulary   r  the same over anchors   R  transfer matrix
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from onceedit_ray.errors import AlignmentError


@dataclass(frozen=True, eq=False)
class SparseRows:
    """R_VA as its largest entries.

    columns_VK: int32, the anchors of each row's entries.
    mass_VK: float32, the entries, largest first; every row sums to 1.
    anchors: the number of columns. multiplier: of the softmax that made the rows.
    """

    columns_VK: Tensor
    mass_VK: Tensor
    anchors: int
    multiplier: float

    def __len__(self) -> int:
        return len(self.columns_VK)

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """`(columns int64, mass float32)` of tokens, each shaped `(*ids.shape, K)`."""
        return self.columns_VK[ids].long(), self.mass_VK[ids]

    def mix(self, ids_T: Tensor, p_T: Tensor) -> Tensor:
        """`r = p·R` (the products of eq. 8) for a `p` given by its tokens: r_A, dense, float32, of the mass of `p_T`.

        Leading dimensions of `ids_T` and `p_T` are a batch.
        """
        columns, mass = self.rows(ids_T)
        batch = ids_T.shape[:-1]
        r_A = torch.zeros(*batch, self.anchors, device=mass.device)
        return r_A.scatter_add_(-1, columns.reshape(*batch, -1), (p_T.float()[..., None] * mass).reshape(*batch, -1))

    def column_winners(self, row_ids_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`argmax_j R[j, a]` and its mass for every anchor, the result of the search of eq. 9 (algorithm.md §3.1).

        Args:
            row_ids_N: the rows that may win, the anchors' own among them; every row by default.

        Returns `(winner_A int64, winner_mass_A float32)`; ties go to the lowest id. Raises `AlignmentError` where no
        row that may win has an entry in a column.
        """
        row_ids_N = torch.arange(len(self), device=self.mass_VK.device) if row_ids_N is None else row_ids_N
        column_E = self.columns_VK[row_ids_N].flatten().long()
        mass_E = self.mass_VK[row_ids_N].flatten()
        row_E = row_ids_N.repeat_interleave(self.columns_VK.shape[1])
        best_A = torch.full((self.anchors,), -1.0, device=mass_E.device).scatter_reduce_(0, column_E, mass_E, "amax")
        if bool((best_A < 0).any()):
            empty = int((best_A < 0).nonzero()[0])
            raise AlignmentError(
                f"no row has an entry for anchor {empty}; the anchors' own rows must be among the rows"
            )
        wins_E = mass_E == best_A[column_E]
        winner_A = torch.full((self.anchors,), len(self), dtype=torch.int64, device=mass_E.device)
        return winner_A.scatter_reduce_(0, column_E[wins_E], row_E[wins_E], "amin"), best_A
