"""The `[WEIGHT]` token, whose logit is the gate (eq. 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel

WEIGHT_TOKEN = "[WEIGHT]"


def weight_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token's id, or None for a model that has never been edited."""
    return tokenizer.get_vocab().get(WEIGHT_TOKEN)


def add_weight_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Give the plug-in a `[WEIGHT]` token, unless it has one; returns the token's id.

    Its embedding is drawn like the others' (same standard deviation, mean zero): from a zero row no gradient of eq. 6
    would reach the layers below. Seeded by the caller.
    """
    known = weight_token_id(tokenizer)
    if known is not None:
        return known
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer.add_special_tokens({"additional_special_tokens": [WEIGHT_TOKEN]}, replace_extra_special_tokens=False)
    weight_id = tokenizer.convert_tokens_to_ids(WEIGHT_TOKEN)
    model.resize_token_embeddings(max(rows, weight_id + 1), mean_resizing=False)
    with torch.no_grad():
        for E_VD in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            E_VD[weight_id].normal_(0.0, float(E_VD[:weight_id].std()))
    return weight_id
