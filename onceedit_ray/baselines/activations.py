"""Reads the inputs and outputs of a model's modules, or adds to them at one position of each row.

A module may return its first result alone or in a tuple, and may flatten rows and positions into one dimension (OPT);
all forms are supported. This module does not know edits.

Shapes: B rows, T positions, I inputs of a module, D its outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class _AllRead(Exception):
    """Raised to stop a forward pass when all activations have been read."""


def whole_mask(model: PreTrainedModel, ids_BT: Tensor) -> Tensor:
    """A mask that hides no position, for a model without weights too.

    transformers reads the values of a mask over positions, and a model on the meta device has no values. It passes a
    mask over pairs of positions, float [B, 1, T, T], on without reading it.
    """
    if model.device.type != "meta":
        return torch.ones_like(ids_BT)
    B, T = ids_BT.shape
    return torch.zeros(B, 1, T, T, dtype=model.dtype, device=model.device)


@torch.no_grad()
def module_inputs(
    model: PreTrainedModel, modules: Sequence[nn.Module], ids_BT: Tensor, attention_mask_BT: Tensor
) -> list[Tensor]:
    """Each module's input, [B, T, I]; the model runs no further than needed."""

    def hook(module: nn.Module, keep: Callable[[Tensor], None]) -> Any:
        return module.register_forward_pre_hook(lambda _, arguments: keep(arguments[0]))

    return _read(model, modules, hook, ids_BT, attention_mask_BT)


@torch.no_grad()
def module_outputs(
    model: PreTrainedModel, modules: Sequence[nn.Module], ids_BT: Tensor, attention_mask_BT: Tensor
) -> list[Tensor]:
    """Each module's output, [B, T, D]; the model runs no further than needed."""

    def hook(module: nn.Module, keep: Callable[[Tensor], None]) -> Any:
        return module.register_forward_hook(lambda _, arguments, output: keep(_first(output)))

    return _read(model, modules, hook, ids_BT, attention_mask_BT)


@contextlib.contextmanager
def shifted(module: nn.Module, index_B: Tensor, shift_BD: Tensor) -> Iterator[None]:
    """Inside the block, `shift_BD[b]` is added to row b of the module's output at position `index_B[b]`.

    Gradients flow into `shift_BD`. Outputs read inside this block include the shift.
    """

    def add(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> Any:
        first = _first(output)
        rows_BTD = first.reshape(len(index_B), -1, first.shape[-1])
        rows_B = torch.arange(len(index_B), device=first.device)
        added = torch.zeros_like(rows_BTD).index_put((rows_B, index_B), shift_BD.to(first.dtype))
        result = (rows_BTD + added).reshape(first.shape)
        return result if isinstance(output, Tensor) else (result, *output[1:])

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def at(values: Tensor, index_B: Tensor) -> Tensor:
    """Row b of `values` at position `index_B[b]`, [B, D], whether rows and positions were flattened or not."""
    values_BTD = values.reshape(len(index_B), -1, values.shape[-1])
    return values_BTD[torch.arange(len(index_B), device=values.device), index_B]


def _read(
    model: PreTrainedModel,
    modules: Sequence[nn.Module],
    hook: Callable[[nn.Module, Callable[[Tensor], None]], Any],
    ids_BT: Tensor,
    attention_mask_BT: Tensor,
) -> list[Tensor]:
    read: dict[int, Tensor] = {}

    def keeper(number: int) -> Callable[[Tensor], None]:
        def keep(values: Tensor) -> None:
            read[number] = values
            if len(read) == len(modules):
                raise _AllRead

        return keep

    handles = [hook(module, keeper(number)) for number, module in enumerate(modules)]
    try:
        with contextlib.suppress(_AllRead):
            model(input_ids=ids_BT, attention_mask=attention_mask_BT, logits_to_keep=1, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [read[number] for number in range(len(modules))]


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
