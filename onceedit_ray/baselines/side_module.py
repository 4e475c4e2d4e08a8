"""Shared code of the editors that wrap one layer's output projection with a module.

Such a module sees activations only, so it must be told where the prompt ends. A request is processed in one of three
ways, and all three give the same answer tokens:

prefill          the prompt in one pass of T > 1 positions: the prompt ends at the last one, or at `prompt_tokens`.
decoding         with a KV cache, one position a pass: the answer's own positions, never the prompt's end. The change at
                 the prompt's end is in the cache of the layers above.
teacher forcing  prompt and answer in one pass: the prompt ends at `prompt_tokens`, which only the caller knows. So
                 scoring runs inside `EditedModel.asked(prompt_tokens)`.

A module cannot distinguish a pass of several positions that continues a cached sequence from a new prompt, unless the
pass is shorter than the prompt; nor a one-token prompt from a decoding step. So a prompt must be fed in one pass.

Shapes: B rows, T positions, F inner width of the MLP (what enters its output projection).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from onceedit_ray.baselines.activations import module_inputs, whole_mask
from onceedit_ray.baselines.edited_model import CurrentQuestion, EditedModel, read_edit, saved_modules
from onceedit_ray.baselines.mlps import Mlp, find_mlps, layer_at
from onceedit_ray.baselines.teacher_forcing import OUTSIDE, AnswerBatch
from onceedit_ray.errors import ModelError

State = dict[str, Tensor]


def mlp_at(model: PreTrainedModel, depth: float) -> Mlp:
    """The MLP at a share of the depth in [0, 1): 27/32 is layer 27 of 32, and layer 25 of 30.

    Raises `ModelError` if the model has no such MLP, or if its input has no dimension of positions.
    """
    mlps = find_mlps(model)
    mlp = mlps[layer_at(len(mlps), depth, rounded=False)]
    # OPT's layer itself flattens rows and positions into one, and so does a mixture around a shared expert.
    if mlp.path == mlp.layer_path or not _is_given_rows(model, mlp):
        raise ModelError(
            f"{mlp.projection_path} of {type(model).__name__} is given no rows of positions (a mixture of experts, or "
            "no MLP of its own); choose an editor that changes weights"
        )
    return mlp


def _is_given_rows(model: PreTrainedModel, mlp: Mlp) -> bool:
    """Whether what enters the MLP has rows of positions, found by a pass; a model without weights is enough."""
    ids_BT = torch.zeros(2, 3, dtype=torch.long, device=model.device)
    (given,) = module_inputs(model, [mlp.projection], ids_BT, whole_mask(model, ids_BT))
    return given.shape[:-1] == ids_BT.shape


def prompt_end(question: CurrentQuestion, positions: int) -> int | None:
    """The index of the prompt's last position in a pass of `positions` positions; None if the pass only continues."""
    if positions == 1:
        return None
    if question.prompt_tokens is None:
        return positions - 1
    return question.prompt_tokens - 1 if question.prompt_tokens <= positions else None


def prompt_of(batch: AnswerBatch) -> Tensor:
    """The prompt's tokens of a batch of one row, int64 [1, T]."""
    first = int((batch.labels_BT[0] != OUTSIDE).int().argmax())
    return batch.ids_BT[:, :first]


def entering(model: PreTrainedModel, module: nn.Module, ids_1T: Tensor) -> Tensor:
    """The input of `module` when the model reads one sequence, float32 [T, F]."""
    return module_inputs(model, [module], ids_1T, torch.ones_like(ids_1T))[0][0].float()


def restore_wrapper(
    model: PreTrainedModel, folder: Path, editor: str, build: Callable[[Mlp, CurrentQuestion, State], nn.Module]
) -> EditedModel:
    """Put the one module that `EditedModel.save` wrote for `editor` around its place in `model`.

    Raises `ModelError` if the folder holds another editor's edit, or if the model has no such module of its shape.
    """
    edited = EditedModel(model, editor, read_edit(folder, editor)["settings"])
    places = {mlp.projection_path: mlp for mlp in find_mlps(model)}
    with edited.whole_or_undone():
        for path, state in saved_modules(folder).items():
            if path not in places or not _fits(state, places[path].matrix_DF):
                raise ModelError(
                    f"the edit in {folder} does not fit {type(model).__name__} (no projection of its shape at {path}); "
                    "load it on the model it was made on"
                )
            mlp = places[path]
            device = mlp.projection.weight.device
            # Copy the tensors: those of a file may be unaligned, and kernels then round differently.
            moved = {name: tensor.clone().to(device) for name, tensor in state.items()}
            edited.wrap(path, build(mlp, edited.question, moved))
    return edited


def _fits(state: State, matrix_DF: Tensor) -> bool:
    """Whether the dimensions D and F that the tensors have in their names (`keys_KF`) are those of the projection."""
    sizes = dict(zip("DF", matrix_DF.shape, strict=True))
    return all(
        sizes.get(letter, size) == size
        for name, tensor in state.items()
        for letter, size in zip(name.rpartition("_")[2], tensor.shape, strict=False)
    )
