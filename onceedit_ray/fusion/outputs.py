"""What is known of an answer while it is written: by whom it is, and how likely each of its tokens was.

Shapes: N entries of a distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Generation:
    """An answer.

    token_ids: the target's tokens, its end-of-text included where it came. weight: the gate's w, 0 where the screen
    found no edited subject; None if unedited. alone: the target spoke alone. target_passes, plugin_passes: forward
    passes for this answer; requests that shared a draft report it each. version: the plug-in's. drafted, accepted:
    tokens that the plug-in proposed to the target, and those of them that were kept. edits: ids of the edits that the
    answer tells, where the plug-in reads them.
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
    """A token with its probability where it was chosen, and the most likely tokens there with theirs.

    From the distribution that it was chosen from, before temperature and top-p: the fused one, or the target's own
    where it spoke alone. What a distribution does not list has none of its mass, so a probability is never too high.
    """

    token: int
    p: float
    likely: tuple[tuple[int, float], ...]


@dataclass
class Trace:
    """Handed to `FusedDecoder.stream`, which fills it: before a piece is yielded, its tokens are in here.

    likely: how many of the most likely tokens to keep for each token; None keeps no probability and costs nothing.
    """

    likely: int | None = None
    chances: list[TokenProbability] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether probabilities are kept."""
        return self.likely is not None

    def add(self, token: int, ids_N: NDArray[np.integer], p_N: NDArray[np.floating], p: float | None = None) -> None:
        """Note a chosen token; p: its probability, where it may be missing among `ids_N`."""
        if self.likely is None:
            return
        order = np.lexsort((ids_N, -p_N))[: self.likely]
        likely = tuple((int(ids_N[at]), float(p_N[at])) for at in order)
        self.chances.append(TokenProbability(token, float(p_N[ids_N == token].sum()) if p is None else p, likely))
