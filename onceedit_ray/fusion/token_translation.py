"""Translates a token of one model for another: to the token of the same text, or to the first token of its text. Knows
two codecs and their shared tokens, but neither embeddings nor fusion.

A  shared tokens
"""

from __future__ import annotations

from torch import Tensor

from onceedit_ray.errors import ModelError
from onceedit_ray.models.codec import Codec


class TokenTranslation:
    """Translates one model's tokens into another model's tokens.

    Args:
        of, to: the codecs of the source model and of the destination model.
        of_ids_A, to_ids_A: the tokens they share, int64; see `alignment.Anchors`.
    """

    def __init__(self, of: Codec, to: Codec, of_ids_A: Tensor, to_ids_A: Tensor) -> None:
        self._of, self._to = of, to
        self._same = dict(zip(of_ids_A.tolist(), to_ids_A.tolist(), strict=True))
        if to.end_id >= 0:
            self._same |= dict.fromkeys(of.end_ids, to.end_id)
        self._first: dict[int, int | None] = {}

    def same(self, token: int) -> int | None:
        """The other model's token of the same text (its end of text for any of ours); None if it has none."""
        return self._same.get(token)

    def first(self, token: int) -> int | None:
        """`same`, or the first of the other model's tokens for the text; None for a token without text."""
        if token in self._same:
            return self._same[token]
        if token not in self._first:
            self._first[token] = self._cut(self._of.surface(token))
        return self._first[token]

    def _cut(self, text: bytes) -> int | None:
        try:
            return self._to.encode_bytes(text)[0] if text else None
        except ModelError:  # a byte that the other's vocabulary cannot write
            return None
