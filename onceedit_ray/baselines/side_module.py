"""What editors share that put a module around one layer's output projection.

Such a module sees activations only, so it has to be told where the prompt ends. One request reaches it in three ways,
and all three give the same answer tokens:

prefill          the prompt in one pass of T > 1 positions: the prompt ends at the last one, or at `prompt_tokens`.
decoding         with a KV cache, one position a pass: the answer's own positions, never the prompt's end. What was
                 changed at the prompt's end is in the cache of the layers above.
teacher forcing  prompt and answer in one pass: the prompt ends at `prompt_tokens`, which only the caller knows. So
                 scoring runs inside `EditedModel.asked(prompt_tokens)`.

It cannot tell a pass of several positions that continues a cached sequence from a new prompt, unless the pass is
shorter than the prompt; nor the one-token prompt from a decoding step. A prompt is fed in one pass.

Shapes: B rows, T positions, F inner width of the MLP (what enters its output projection).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from onceedit_ray.baselines.activations import module_inputs
from onceedit_ray.baselines.edited_model import EditedModel, Question, read_edit, saved_modules
from onceedit_ray.baselines.mlps import Mlp, find_mlps, layer_at
from onceedit_ray.baselines.teacher_forcing import OUTSIDE, AnswerBatch
from onceedit_ray.errors import ModelError

State = dict[str, Tensor]


def mlp_at(model: PreTrainedModel, depth: float) -> Mlp:
    """The MLP at a share of the depth in [0, 1): 27/32 is layer 27 of 32, and layer 25 of 30.

    Raises `ModelError` where the model has no such MLP, or one that is not given rows of positions.
    """
    mlps = find_mlps(model)
    mlp = mlps[layer_at(len(mlps), depth, rounded=False)]
    ids_BT = torch.zeros(2, 3, dtype=torch.long, device=model.device)
    (given,) = module_inputs(model, [mlp.projection], ids_BT, torch.ones_like(ids_BT))
    # The layer itself (OPT) or a mixture around a shared expert flattens rows and positions into one.
    if given.shape[:-1] != ids_BT.shape:
        raise ModelError(
            f"{mlp.projection_path} of {type(model).__name__} is given no rows of positions (a mixture of experts, or "
            "no MLP of its own); choose an editor that changes weights"
        )
    return mlp


def prompt_end(question: Question, positions: int) -> int | None:
    """The place of the prompt's last position in a pass of so many positions; None where the pass only continues."""
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
    """What enters `module` when the model reads one sequence, float32 [T, F]."""
    return module_inputs(model, [module], ids_1T, torch.ones_like(ids_1T))[0][0].float()


def restore_wrapper(
    model: PreTrainedModel, folder: Path, editor: str, build: Callable[[Mlp, Question, State], nn.Module]
) -> EditedModel:
    """Put the one module that `EditedModel.save` wrote for `editor` around its place in `model`.

    Raises `ModelError` where the folder holds another editor's work, or the model has no such place.
    """
    edited = EditedModel(model, editor, read_edit(folder, editor)["settings"])
    places = {mlp.projection_path: mlp for mlp in find_mlps(model)}
    with edited.whole_or_undone():
        for path, state in saved_modules(folder).items():
            if path not in places:
                raise ModelError(
                    f"{type(model).__name__} has no projection at {path}; load {folder} onto the model it edits"
                )
            mlp = places[path]
            device = mlp.projection.weight.device
            # Copies, because tensors of a file need not lie where kernels want them, and then round differently.
            moved = {name: tensor.clone().to(device) for name, tensor in state.items()}
            edited.wrap(path, build(mlp, edited.question, moved))
    return edited
