"""What the plug-in says at one position of an answer.

Shapes: K entries kept of the plug-in's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Proposal:
    """The target token that the plug-in's draft re-tokenises to at a position.

    token: the target's token id; the target's end-of-text where the draft ends here.
    probability: product of the plug-in probabilities that cover the token's bytes (algorithm.md §3.4).
    covered_ids: plug-in tokens whose mass is part of `probability`, with the mass each gave.
    """

    token: int
    probability: float
    covered: dict[int, float]


@dataclass(frozen=True)
class Reading:
    """The plug-in's next-token distribution at a position, and what its draft proposes there.

    ids_K: plug-in token ids. p_K: their probabilities, given the bytes already written of the token the position is in.
    suffixes: for a position inside a plug-in token, the bytes each entry adds from here; None at a token's start.
    proposal: None for strategies that fuse single tokens.
    """

    ids_K: NDArray[np.int32]
    p_K: NDArray[np.float32]
    suffixes: tuple[bytes, ...] | None = None
    proposal: Proposal | None = None
