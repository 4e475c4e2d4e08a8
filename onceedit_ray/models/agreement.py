"""Compares the distributions of two passes of a network, and lists the exceptions of networks that take no cache or
mask.

Sums are taken in another order in a batch, with a cache or in half precision, so two right results differ a little.

Shapes: N positions, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel

AGREEMENT = {torch.float32: 1e-3}
ROUGH_AGREEMENT = 5e-2
"""Total variation distance up to which two distributions count as equal; the second value is for half precision."""
NOT_MADE_FOR_IT = (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError, AssertionError)
"""Exceptions of networks that do not accept a cache or a mask."""
_TRIED = 8


def agree(one_NV: Tensor, other_NV: Tensor) -> bool:
    """Whether the logits of N positions are the same distributions, within the precision of their dtype."""
    distance_N = (torch.softmax(one_NV.float(), -1) - torch.softmax(other_NV.float(), -1)).abs().sum(-1) / 2
    return bool(distance_N.max() < AGREEMENT.get(one_NV.dtype, ROUGH_AGREEMENT))


@torch.inference_mode()
def is_causal(model: PreTrainedModel) -> bool:
    """Whether the prediction at a position does not depend on the tokens after it, found by two plain passes.

    A network whose weights give no numbers (NaN) is not judged. Raises whatever the network raises.
    """
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    ids = [token * 7 % vocabulary for token in range(3, 3 + _TRIED)]
    half = _TRIED // 2
    changed = [*ids[:half], *(token * 11 % vocabulary for token in range(5, 5 + half))]
    one_NV, other_NV = (
        model(torch.tensor([each], device=model.device), use_cache=False).logits[0, :half] for each in (ids, changed)
    )
    return bool(one_NV.isnan().any()) or agree(one_NV, other_NV)
