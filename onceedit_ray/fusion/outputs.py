"""The outputs of decoding: an answer with its statistics, and the probabilities of its tokens.

Shapes: N entries of a distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Generation:
    """An answer.

    token_ids: the target's tokens, with the end-of-text token if it was generated. weight: the gate's w, 0 if the
    screen found no edited subject; None if unedited. alone: the target answered alone. target_passes, plugin_passes:
    forward passes for this answer; requests that share a draft each report its passes. version: the plug-in's. drafted,
    accepted: numbers of tokens that the plug-in proposed to the target, and of those that were accepted. edits: ids of
    the edits that the answer states, if the plug-in reads edits.
    """

    target: str
    text: str
    token_ids: tuple[int, ...]
    weight: float | None
    alone: bool
    target_passes: int
    plugin_passes: int
    ended: bool
    version: str = ""
    prompt_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    edits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """Teacher-forced predictions: the token chosen at each gold position, given the gold tokens before it."""

    predicted: tuple[int, ...]
    weight: float | None
    alone: bool
    plugin_passes: int


@dataclass(frozen=True)
class TokenProbability:
    """A chosen token with its probability, and the most likely tokens at its position with theirs.

    The probabilities are of the distribution before temperature and top-p: the fused one, or the target's own if it
    answered alone. Tokens outside the listed ones count with probability 0, so a probability is never too high.
    """

    token: int
    p: float
    likely: tuple[tuple[int, float], ...]


@dataclass
class Trace:
    """An object for `FusedDecoder.stream` to fill: before a piece is yielded, its tokens are added here.

    likely: number of most likely tokens to keep for each token; None keeps no probabilities.
    """

    likely: int | None = None
    chances: list[TokenProbability] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether probabilities are kept."""
        return self.likely is not None

    def add(self, token: int, ids_N: NDArray[np.integer], p_N: NDArray[np.floating], p: float | None = None) -> None:
        """Add a chosen token; p: its probability, needed if it may be missing in `ids_N`."""
        if self.likely is None:
            return
        order = np.lexsort((ids_N, -p_N))[: self.likely]
        likely = tuple((int(ids_N[at]), float(p_N[at])) for at in order)
        self.chances.append(TokenProbability(token, float(p_N[ids_N == token].sum()) if p is None else p, likely))
