"""Fusion strategies: how two models' next-token distributions become one (algorithm.md §4).

A strategy is one file and one registry entry: a callable that takes a `Pair` and returns a `Strategy`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from onceedit_ray.alignment import Alignment
from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.models.codec import Codec
from onceedit_ray.registry import Registry


@dataclass(frozen=True)
class Pair:
    """An aligned plug-in and target."""

    plugin: Codec
    target: Codec
    alignment: Alignment


@dataclass(frozen=True)
class Fused:
    """Target tokens and their fused mass, [N] each; no token occurs twice, and the masses need not sum to 1."""

    ids_N: NDArray[np.integer]
    p_N: NDArray[np.floating]

    @property
    def likeliest(self) -> int:
        """The most likely token, the one with the lowest id on a tie."""
        return int(self.ids_N[self.p_N == self.p_N.max()].min())


def answered(r_A: Tensor, winner_A: Tensor) -> Fused:
    """The closed form of eq. 9-11: an anchor maps to the token that wins its column.

    r_A: fused mass of the anchors, float32. winner_A: that token for each anchor. A token that wins several columns
    gets the mass of the largest of their anchors, so that the most likely token is that of the largest anchor.
    """
    mass_A = r_A.numpy()
    held = np.flatnonzero(mass_A > 0)
    return loudest(winner_A.numpy()[held], mass_A[held])


def loudest(tokens_N: NDArray[np.integer], mass_N: NDArray[np.floating]) -> Fused:
    """Target tokens to which coordinates of another space map: each gets the mass of its largest coordinate."""
    tokens, where = np.unique(tokens_N, return_inverse=True)
    p_N = np.zeros(len(tokens))
    np.maximum.at(p_N, where, mass_N)
    return Fused(tokens, p_N)


class Strategy(ABC):
    """One fusion strategy; a subclass overrides `fuse` and the defaults that differ.

    drafts: whether readings carry a `Proposal`, so that several tokens can be verified in one pass.
    gated: whether the target answers alone below the gate's threshold. The paper's own strategies always fuse.
    fixed_weight: the weight used for every request instead of the gate's; None uses the gate.
    restriction: how the strategy is restricted here, for reports of results; "" if it is not.
    selective: whether the target writes alone and is fused only where a fact's answer is due.
    needs_distributions: whether the target must tell the probabilities of its tokens (`models.engines`).
    """

    drafts: ClassVar[bool] = False
    gated: ClassVar[bool] = False
    fixed_weight: ClassVar[float | None] = None
    restriction: ClassVar[str] = ""
    selective: ClassVar[bool] = False
    needs_distributions: ClassVar[bool] = True

    @abstractmethod
    def fuse(self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> Fused:
        """The fused distribution over the target's tokens at one position.

        Args:
            reading: the plug-in's distribution and proposal at this position.
            ids_K, p_K: the target's most likely tokens and their probabilities.
            weight: w of eq. 8.
        """


class InPrompt(Strategy):
    """A strategy without the plug-in: the target reads edits in its own prompt (`fusion.in_prompt`).

    Its reading is the target's distribution with the edits, so it needs no alignment. Where `chosen` returns no edit
    the target answers alone.

    contrasts: whether the target's distribution without the edits is needed, too, at the cost of a second pass for each
        token.
    """

    contrasts: ClassVar[bool] = False

    def __init__(self, pair: Pair) -> None:
        del pair

    @abstractmethod
    def chosen(self, edits: FactsAt, request: str) -> dict[str, Edit]:
        """The edits, by id, that the target reads before a request; none leaves the target alone."""

    def fuse(self, reading: DraftPosition, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> Fused:
        """The distribution with the edits, `reading`; `ids_K`, `p_K` are those without."""
        return Fused(reading.ids_K, reading.p_K)


STRATEGIES: Registry[Callable[[Pair], Strategy]] = Registry("fusion strategy", __name__)
