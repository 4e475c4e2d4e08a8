"""Texts to put before an edit's prompt, so that keys and values are valid in any context.

ROME and MEMIT read keys and optimise values after x_j, short texts that the model itself writes (Meng et al. 2022,
§3.1). They are sampled from the model with a seeded generator: the same model, seed and device give the same texts.

Shapes: B texts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.models.codec import Codec

_OPENINGS = ("The", "Therefore", "Because", "I", "You")


def context_prefixes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lengths: Sequence[tuple[int, int]], seed: int
) -> list[str]:
    """The empty text, then sampled ones, each closed by a full stop and a space.

    Args:
        lengths: pairs of how many tokens and how many texts of that length.
    """
    codec = Codec(tokenizer)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    wanted = [tokens for tokens, texts in lengths for _ in range(texts)]
    openings = [codec.encode_prompt(_OPENINGS[number % len(_OPENINGS)]) for number in range(len(wanted))]
    prefixes = [""] * len(wanted)
    for size in sorted({len(opening) for opening in openings}):
        rows = [row for row, opening in enumerate(openings) if len(opening) == size]
        ids_BT = torch.tensor([openings[row] for row in rows])
        written_BT = _written(model, codec, ids_BT, max(wanted[row] for row in rows), generator)
        for row, ids_T in zip(rows, written_BT, strict=True):
            prefixes[row] = " ".join(codec.text_of(ids_T[: size + wanted[row]].tolist()).split()) + ". "
    return ["", *prefixes]


@torch.no_grad()
def _written(model: PreTrainedModel, codec: Codec, ids_BT: Tensor, tokens: int, generator: torch.Generator) -> Tensor:
    """`ids_BT` with `tokens` more tokens, sampled from the whole distribution without tokens that represent no text."""
    textless_V: Tensor | None = None
    for _ in range(tokens):
        out = model(input_ids=ids_BT.to(model.device), logits_to_keep=1, use_cache=False)
        p_BV = out.logits[:, -1].float().cpu().softmax(-1)
        if textless_V is None:
            textless_V = torch.tensor([not codec.surface(token).strip() for token in range(p_BV.shape[1])])
        ids_BT = torch.cat([ids_BT, torch.multinomial(p_BV.masked_fill(textless_V, 0), 1, generator=generator)], 1)
    return ids_BT
