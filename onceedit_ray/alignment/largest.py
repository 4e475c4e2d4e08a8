"""The largest entries of each row of a wide matrix, exactly, in less than half of the time of `topk`.

An entry can be among the k largest of its row only if the maximum of its group is among the k largest maxima: otherwise
k other groups would each hold an entry at least as large. So `topk` is applied to maxima of maxima, then only to the
groups that it chose. This module does not know what the entries mean.

B  rows   A  columns   P  columns, padded   K  entries wanted   G  groups   C  the entries
"""

from __future__ import annotations

import torch
from torch import Tensor

# Eight columns to a group and eight groups to a group of groups: the fastest of the shapes tried for 17,000 to 46,000
# columns; the maxima of neighbours in memory would be slower, so a group's columns lie `P / 8` apart.
_GROUP = 8
_WHOLE = _GROUP * _GROUP
# The bits of positive floating-point numbers, read as integers, have the same order as the numbers, and processors
# compare integers several times faster than bfloat16.
_AS_INTEGER = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def padded_width(columns: int) -> int:
    """The padded number of columns that `largest` requires for `columns` columns."""
    return -(-columns // _WHOLE) * _WHOLE


def largest(C_BP: Tensor, keep: int, columns: int) -> Tensor:
    """The indices of the `keep` largest of the first `columns` entries of each row: at_BK, int64, unordered.

    Args:
        C_BP: bfloat16, float16 or float32, contiguous, `padded_width(columns)` wide, zero from `columns` on.

    Among equal entries the choice is arbitrary.
    """
    if keep > C_BP.shape[1] // _WHOLE:
        return C_BP[:, :columns].topk(keep, dim=1, sorted=False).indices
    bits_BP = C_BP.view(_AS_INTEGER[C_BP.dtype])
    maxima_BG = bits_BP.unflatten(1, (_GROUP, -1)).amax(dim=1)
    groups_BK = maxima_BG.unflatten(1, (_GROUP, -1)).amax(dim=1).topk(keep, dim=1, sorted=False).indices
    groups_BK = _largest_inside(groups_BK, maxima_BG, keep)
    at_BK = _largest_inside(groups_BK, bits_BP, keep)
    # The padding, and the order of negative numbers, matter only if fewer than `keep` entries are positive.
    few = (bits_BP.gather(1, at_BK).amin(dim=1) <= 0).nonzero().flatten()
    if len(few):
        at_BK[few] = C_BP[few, :columns].topk(keep, dim=1, sorted=False).indices
    return at_BK


def _largest_inside(groups_BK: Tensor, members_BP: Tensor, keep: int) -> Tensor:
    """The indices of the `keep` largest members of the chosen groups."""
    width = members_BP.shape[1]
    steps = torch.arange(0, width, width // _GROUP, device=members_BP.device)
    at = (groups_BK[:, None, :] + steps[:, None]).flatten(1)
    return at.gather(1, members_BP.gather(1, at).topk(keep, dim=1, sorted=False).indices)
