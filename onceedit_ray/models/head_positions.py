"""The logits of chosen positions, as the model itself makes them.

Shapes: B rows, T positions, D width, M chosen positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel


@contextlib.contextmanager
def logits_of(model: PreTrainedModel, rows_M: Tensor, columns_M: Tensor) -> Iterator[None]:
    """While the block runs, a forward pass of `model` returns the logits of positions (row, column), [1, M, V].

    The output head is the larger part of a small model, so it is applied to a gathered list of positions only. The
    model itself applies its later changes to the logits (soft-capping, scaling).
    """

    def chosen(head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        h_BTD: Tensor = args[0]
        return (h_BTD[rows_M.to(h_BTD.device), columns_M.to(h_BTD.device)].unsqueeze(0), *args[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        hook.remove()
