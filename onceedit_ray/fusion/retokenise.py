"""The plug-in's distribution and proposal at one position of an answer, taken from its draft.

Positions are byte offsets into the draft's text, since the two vocabularies share no token boundaries. The result
depends on the answer so far and never on the length of the draft: the target token proposed at a byte is the first
token of re-tokenising the next `LOOKAHEAD` plug-in tokens (algorithm.md §3.4).

Shapes: K entries kept of the plug-in's distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onceedit_ray.models.codec import Codec
from onceedit_ray.models.protocol import Row

LOOKAHEAD = 4
"""Number of plug-in tokens used to re-tokenise one position; fewer only if the draft ends."""


@dataclass(frozen=True)
class Proposal:
    """The target token that the plug-in's draft re-tokenises to at a position.

    token: the target's token id; the target's end-of-text if the draft ends here.
    probability: product of the plug-in probabilities that cover the token's bytes (algorithm.md §3.4).
    covered_ids: plug-in tokens whose mass is part of `probability`, with the mass of each.
    """

    token: int
    probability: float
    covered: dict[int, float]


@dataclass(frozen=True)
class DraftPosition:
    """The plug-in's next-token distribution at a position, and what its draft proposes there.

    ids_K: plug-in token ids. p_K: their probabilities, given the bytes already written of the token the position is in.
    suffixes: for a position inside a plug-in token, the bytes each entry adds from here; None at a token's start.
    proposal: None for strategies that fuse single tokens, and where the target cannot write what was drafted.
    """

    ids_K: NDArray[np.int32]
    p_K: NDArray[np.float32]
    suffixes: tuple[bytes, ...] | None = None
    proposal: Proposal | None = None


def token_at(tokens: Sequence[int], codec: Codec, offset: int) -> tuple[int, int]:
    """The draft's token that contains a byte, and how many of its bytes come before that byte."""
    start = 0
    for index, token in enumerate(tokens):
        length = len(codec.surface(token))
        if offset < start + length or token in codec.end_ids:
            return index, offset - start
        start += length
    return len(tokens), offset - start


def read_draft(tokens: Sequence[int], rows: Sequence[Row], codec: Codec, offset: int, target: Codec) -> DraftPosition:
    """The plug-in's distribution at a byte of its draft, and the target token proposed there.

    tokens: the draft. rows: the plug-in's distribution before each of them. The draft must reach `LOOKAHEAD` tokens
    beyond the byte, or end. There is no proposal where the target's vocabulary cannot write what was drafted.
    """
    index, inside = token_at(tokens, codec, offset)
    ids_K, p_K, suffixes = _given(rows[index], codec.surface(tokens[index])[:inside], codec)
    window = tokens[index : index + LOOKAHEAD]
    if window[0] in codec.end_ids:
        mass = {int(t): float(p) for t, p in zip(ids_K, p_K, strict=True) if int(t) in codec.end_ids}
        return DraftPosition(ids_K, p_K, suffixes, Proposal(target.end_id, sum(mass.values()), mass))
    token = target.first_token(codec.bytes_of(window)[inside:])
    if token is None:
        return DraftPosition(ids_K, p_K, suffixes)
    path = zip(window, [(ids_K, p_K), *rows[index + 1 : index + len(window)]], strict=True)
    return DraftPosition(ids_K, p_K, suffixes, _cover(token, target.surface(token), inside, list(path), codec))


def _cover(token: int, wanted: bytes, inside: int, path: Sequence[tuple[int, Row]], codec: Codec) -> Proposal:
    """The probability that the plug-in writes `wanted` from here, along its draft.

    path: the draft's tokens from here on, each with the distribution it was taken from.
    """
    probability = 1.0
    covered: dict[int, float] = {}
    for at, (drafted, (ids_K, p_K)) in enumerate(path):
        surface = codec.surface(drafted)[inside:]
        if len(wanted) >= len(surface):
            step = {drafted: _probability(ids_K, p_K, drafted)}
        else:
            entries = zip(ids_K, p_K, strict=True)
            step = {int(t): float(p) for t, p in entries if codec.surface(t)[inside:].startswith(wanted)}
        probability *= sum(step.values())
        # a path of several tokens: the first token counts with the probability of the whole path
        covered = step if at == 0 else {path[0][0]: probability}
        wanted, inside = wanted[len(surface) :], 0
        if not wanted:
            break
    return Proposal(token, probability, covered)


def _probability(ids_K: NDArray[np.int32], p_K: NDArray[np.float32], token: int) -> float:
    hit = np.flatnonzero(ids_K == token)
    return float(p_K[hit[0]]) if len(hit) else 0.0


def _given(
    row: Row, written: bytes, codec: Codec
) -> tuple[NDArray[np.int32], NDArray[np.float32], tuple[bytes, ...] | None]:
    """A distribution, given that the token begins with the bytes already written of it."""
    ids_K, p_K = row
    if not written:
        return ids_K, p_K, None
    surfaces = [codec.surface(token) for token in ids_K]
    fits_K = np.array([len(s) > len(written) and s.startswith(written) for s in surfaces])
    suffixes = tuple(s[len(written) :] for s, fits in zip(surfaces, fits_K, strict=True) if fits)
    return ids_K[fits_K], p_K[fits_K] / p_K[fits_K].sum(), suffixes
