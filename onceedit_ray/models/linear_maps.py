"""Faster linear layers on a CPU, in which decoding spends nearly all of its time.

BLAS reads a float32 weight at 25 to 50 % of the memory bandwidth, and oneDNN reorders a bfloat16 weight for every
product. If the weights are reordered once, when the model is loaded, both are read at nearly the full bandwidth for 1
to 100 rows. Results in bfloat16 are bit-identical; float32 sums are taken in another order (relative difference 1e-6).

Shapes: I inputs, O outputs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onceedit_ray.models.agreement import NOT_MADE_FOR_IT
from onceedit_ray.models.loading import has_bfloat16

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel

ROWS = 16
"""Rows for which oneDNN lays a weight out: a layout for one row is slow with two or more; this one is always fast."""


def speed_up_linear_maps(model: PreTrainedModel) -> None:
    """Lay out the weights of the linear maps of a `model` on a CPU; the model is for inference from now on.

    A map's weight is replaced by its laid-out form, unless the input embeddings share it. Where this build of torch has
    no oneDNN, the CPU does not multiply in a map's dtype, or the network reads a weight itself instead of calling its
    map, maps of that name stay as they are.
    """
    if not torch.backends.mkldnn.is_available():
        return
    maps = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and _can_be_laid_out(module.weight)
    ]
    read = _read_by_the_network(model, maps)
    shared = model.get_input_embeddings().weight
    for name, module in maps:
        if _last_name(name) in read:
            continue
        laid_out = lay_out(module.weight)
        module.forward = functools.partial(laid_out_linear, laid_out, module.bias)  # type: ignore[method-assign]
        if module.weight is not shared:
            module.weight = nn.Parameter(laid_out, requires_grad=False)


class _Watched(nn.Linear):
    """A linear map that notes when its weight is read from outside."""

    was_read: bool

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        self.was_read = True
        return self._own_weight

    @property
    def _own_weight(self) -> Tensor:
        weight = self._parameters["weight"]
        assert weight is not None, "a linear map has a weight"
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self._own_weight, self.bias)


def _read_by_the_network(model: PreTrainedModel, maps: Sequence[tuple[str, nn.Module]]) -> set[str]:
    """The last names of maps whose weight a pass of `model` reads itself, found by running a prompt and a token."""
    for _, module in maps:
        module.__class__ = _Watched
        setattr(module, "was_read", False)  # noqa: B010  # a buffer or a parameter it is not
    try:
        with torch.inference_mode():
            ids_1N = torch.tensor([[1, 2, 3]], device=model.device)
            model(ids_1N, use_cache=False)
            with contextlib.suppress(*NOT_MADE_FOR_IT):  # a network that fails with its own cache is read without one
                out: Any = model(ids_1N, use_cache=True)
                name = next((name for name in ("past_key_values", "cache_params") if getattr(out, name, None)), None)
                if name:
                    model(ids_1N[:, :1], **{name: getattr(out, name)}, use_cache=True)
        return {_last_name(name) for name, module in maps if module.was_read}
    finally:
        for _, module in maps:
            module.__class__ = nn.Linear
            del module.was_read


def _last_name(path: str) -> str:
    return path.rpartition(".")[2]


@torch.no_grad()
def lay_out(W_OI: Tensor) -> Tensor:
    """A weight in oneDNN's own memory layout, which other operations cannot read."""
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(W_OI.detach(), ROWS)
    return laid_out


def laid_out_linear(laid_out_OI: Tensor, bias_O: Tensor | None, x: Tensor) -> Tensor:
    """x·Wᵀ + bias, x: [..., I] to [..., O], in the weight's dtype."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, laid_out_OI, bias_O, "none", [], "")
    return y


def _can_be_laid_out(weight: Tensor) -> bool:
    if weight.device.type != "cpu":
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_bfloat16(weight.device))
