"""Anchors: the tokens common to two vocabularies, the axes of the relative space (§2.2; algorithm.md §1, §3.8).

Works on two `token -> id` mappings; this module knows neither embeddings nor models.

A  anchors
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from onceedit_ray.errors import AlignmentError
from onceedit_ray.models.surface import is_byte_fallback, vocabulary_surfaces

Rule = Literal["text", "paper"]


@dataclass(frozen=True, eq=False)
class Anchors:
    """Pairs of tokens with the same meaning, sorted by the target's id; no id occurs twice.

    plugin_ids_A, target_ids_A: int64, on the CPU; entry a of both is anchor a.
    """

    plugin_ids_A: Tensor
    target_ids_A: Tensor

    def __len__(self) -> int:
        return len(self.target_ids_A)


def find_anchors(
    plugin_vocab: Mapping[str, int],
    target_vocab: Mapping[str, int],
    rule: Rule = "text",
    *,
    plugin_special: Collection[str] = (),
    target_special: Collection[str] = (),
    plugin_literal: Collection[str] = (),
    target_literal: Collection[str] = (),
    end: tuple[int, int] | None = None,
) -> Anchors:
    """The tokens that two vocabularies share.

    Args:
        plugin_vocab, target_vocab: token -> id.
        rule: "text" compares the bytes that tokens represent, special tokens left out; "paper" is DEEPEN's string rule,
            every `Ġ` read as `▁`, special tokens included (31,999 / 24,184 / 17,830 in the appendix).
        plugin_special, target_special: tokens known to represent no text; used by "text" only.
        plugin_literal, target_literal: tokens added to a vocabulary as text; used by "text" only.
        end: the plug-in's and the target's end-of-text ids, made an anchor under either rule.

    If several tokens represent the same text, an ordinary token is preferred to a byte-fallback token, which the
    tokenizer would not use for this text, and then the token of lowest id. Raises `AlignmentError` for an unknown rule
    or no common token.
    """
    if rule == "text":
        plugin_ids = _ids_by_text(plugin_vocab, plugin_special, plugin_literal)
        target_ids = _ids_by_text(target_vocab, target_special, target_literal)
        pairs = {target_ids[text]: plugin_ids[text] for text in target_ids.keys() & plugin_ids.keys() if text}
    elif rule == "paper":
        plugin_names, target_names = _ids_by_string(plugin_vocab), _ids_by_string(target_vocab)
        pairs = {target_names[name]: plugin_names[name] for name in target_names.keys() & plugin_names.keys()}
    else:
        raise AlignmentError(f"unknown anchor rule '{rule}'; expected 'text' or 'paper'")
    if not pairs:
        raise AlignmentError(
            f"the plug-in's {len(plugin_vocab)} tokens and the target's {len(target_vocab)} have none in common "
            f"under the rule '{rule}'; choose a plug-in of the same language and script"
        )
    if end is not None:
        plugin_end, target_end = end
        pairs = {t: p for t, p in pairs.items() if t != target_end and p != plugin_end} | {target_end: plugin_end}
    order = sorted(pairs)
    return Anchors(torch.tensor([pairs[t] for t in order]), torch.tensor(order))


def _ids_by_text(vocab: Mapping[str, int], special: Collection[str], literal: Collection[str]) -> dict[bytes, int]:
    surfaces = vocabulary_surfaces(vocab, special, literal)
    fallback = {token_id for token, token_id in vocab.items() if is_byte_fallback(token)}
    preferred = sorted(surfaces, key=lambda token_id: (token_id in fallback, token_id), reverse=True)
    return {surfaces[token_id]: token_id for token_id in preferred}


def _ids_by_string(vocab: Mapping[str, int]) -> dict[str, int]:
    ordered = sorted(vocab.items(), key=lambda item: item[1], reverse=True)
    return {token.replace("Ġ", "▁"): token_id for token, token_id in ordered}
