"""Prompts with their answers as one padded batch, and the loss of the answers' tokens given the prompts.

The tokens are those that an evaluation scores: the model's prompt, then the answer with its leading space. This module
knows no editor and does not know how the loss is used.

Shapes: B instances, T positions, N positions at which an answer's token is predicted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit, quoted
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.loading import context_length

OUTSIDE = -100
"""The label of a position without an answer token."""


@dataclass(frozen=True)
class AnswerBatch:
    """Prompts with answers, padded at their ends; int64 throughout.

    ids_BT: tokens. labels_BT: the answers' own tokens at their positions, `OUTSIDE` elsewhere (not shifted).
    attention_mask_BT: one where there is a token.
    """

    ids_BT: Tensor
    labels_BT: Tensor
    attention_mask_BT: Tensor


def answer_batch(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], device: torch.device | str
) -> AnswerBatch:
    """`pairs` of prompt and answer as tensors on `device`.

    Raises `ModelError` for an empty prompt, or if the vocabulary has no token for a byte of an answer.
    """
    split = [(prompt_ids(tokenizer, prompt), answer_ids(tokenizer, prompt, answer)) for prompt, answer in pairs]
    ids_BT, attention_mask_BT = padded([prompt + answer for prompt, answer in split], tokenizer, device)
    labels_BT = torch.full_like(ids_BT, OUTSIDE)
    for row, (prompt, answer) in enumerate(split):
        labels_BT[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return AnswerBatch(ids_BT, labels_BT, attention_mask_BT)


def check_edits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit]) -> None:
    """Raise `ModelError`, one line that names the edit, for one that `model` cannot be given with its answer."""
    for edit in edits:
        try:
            ids = [*prompt_ids(tokenizer, edit.prompt), *answer_ids(tokenizer, edit.prompt, edit.target_new)]
            check_tokens(model, torch.tensor([ids]))
        except ModelError as error:
            raise ModelError(f"the model cannot learn the edit {quoted(edit.prompt)}: {error}") from None


def check_tokens(model: PreTrainedModel, ids_BT: Tensor) -> None:
    """Raise `ModelError` for rows beyond the model's window, and for a token that its embedding has no row for."""
    window, rows = context_length(model.config), model.get_input_embeddings().weight.shape[0]
    if ids_BT.shape[1] > window:
        raise ModelError(f"it takes {ids_BT.shape[1]} tokens, and the window holds {window}; shorten it")
    if ids_BT.numel() and (most := int(ids_BT.max())) >= rows:
        raise ModelError(f"the model has {rows} rows and none for token {most} of its tokenizer; leave the word out")


def padded(
    ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Token rows of any length, padded at their ends, and their attention mask; both [B, T] int64."""
    # The mask hides the padding, so any token may be used if the tokenizer has no padding token.
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    ids_BT = torch.full((len(ids), max(map(len, ids))), filler)
    attention_mask_BT = torch.zeros_like(ids_BT)
    for row, own in enumerate(ids):
        ids_BT[row, : len(own)] = torch.tensor(own)
        attention_mask_BT[row, : len(own)] = 1
    return ids_BT.to(device), attention_mask_BT.to(device)


def answer_loss(model: PreTrainedModel, batch: AnswerBatch) -> Tensor:
    """-log P(answer token | prompt, answer so far), the mean over all answer tokens of the batch; a float32 scalar.

    Raises as `check_tokens`.
    """
    check_tokens(model, batch.ids_BT)
    logits_BNV, labels_BN = answer_logits(model, batch)
    return F.cross_entropy(logits_BNV.flatten(0, 1).float(), labels_BN.flatten(), ignore_index=OUTSIDE)


def answer_logits(model: PreTrainedModel, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
    """The logits of the positions that predict an answer token in some row, and the labels of those positions.

    Returns:
        logits [B, N, V] in the model's dtype; labels [B, N], `OUTSIDE` where a row has no answer token there.
    """
    labels_BT = batch.labels_BT[:, 1:]
    positions_N = (labels_BT != OUTSIDE).any(0).nonzero().flatten()
    # Not the logits of the whole prompt: with a vocabulary of 262,144 they would cost more than the model itself.
    out = model(
        input_ids=batch.ids_BT,
        attention_mask=batch.attention_mask_BT,
        logits_to_keep=positions_N,
        use_cache=False,
    )
    return out.logits, labels_BT[:, positions_N]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """A prompt's tokens, with begin-of-text if the model uses it."""
    return _codec(tokenizer, len(tokenizer)).encode_prompt(prompt)


def answer_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> list[int]:
    """An answer's tokens after `prompt`, its leading space included unless the prompt ends in one."""
    return list(_codec(tokenizer, len(tokenizer)).encode_answer(prompt, answer))


@lru_cache(maxsize=8)
def _codec(tokenizer: PreTrainedTokenizerBase, size: int) -> Codec:
    """A cached codec, since it reads the whole vocabulary; `size` gives a new one after a token was added."""
    return Codec(tokenizer)
