"""Fusion strategies: how one next token is chosen from two models' distributions (algorithm.md §4).

A strategy is one file and one registry entry: a callable that takes a `Pair` and returns a `Strategy`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from onceedit_ray.alignment import Alignment
from onceedit_ray.fusion.reading import Reading
from onceedit_ray.models.codec import Codec
from onceedit_ray.registry import Registry


@dataclass(frozen=True)
class Pair:
    """A plug-in and a target, brought into one space."""

    plugin: Codec
    target: Codec
    alignment: Alignment


class Strategy(Protocol):
    """One way of fusing.

    drafts: whether readings carry a `Proposal`, so that several tokens can be verified in one pass.
    gated: whether the target speaks alone below the gate's threshold. The paper's own strategies always fuse.
    fixed_weight: the weight used for every request instead of the gate's; None uses the gate.
    restriction: what a result must say about how the strategy was restricted; "" where it was not.
    """

    drafts: ClassVar[bool]
    gated: ClassVar[bool]
    fixed_weight: ClassVar[float | None]
    restriction: ClassVar[str]

    def choose(self, reading: Reading, ids_K: NDArray[np.int32], p_K: NDArray[np.float32], weight: float) -> int:
        """The target token that comes next.

        Args:
            reading: what the plug-in says at this position.
            ids_K, p_K: the target's most likely tokens and their probabilities.
            weight: w of eq. 8.
        """


STRATEGIES: Registry[Callable[[Pair], Strategy]] = Registry("fusion strategy", __name__)
