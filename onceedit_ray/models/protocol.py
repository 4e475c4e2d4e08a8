"""The protocol of a causal LM; the decoder uses models only through it.

Open a session on tokens, extend it (several tokens in, the most likely next tokens of each position out), cut it back,
let it decode, fork it, close it. A session is a KV cache; no token is prefilled twice. An in-process model, a Ray actor
or a remote engine that returns top-k probabilities can implement it.

Shapes: N positions, K entries kept of each distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onceedit_ray.models.sampling import GREEDY, Sampling

Row = tuple[NDArray[np.int32], NDArray[np.float32]]
"""One position's most likely tokens and their probabilities, both [K]."""


@dataclass(frozen=True)
class Top:
    """The K most likely next tokens at N positions, most likely first.

    ids_NK: int32 token ids. p_NK: float32 probabilities under the full softmax (without `[WEIGHT]`); a row sums to
    at most 1.
    """

    ids_NK: NDArray[np.int32]
    p_NK: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids_NK)

    def row(self, index: int) -> Row:
        """One position's ids and probabilities."""
        return self.ids_NK[index], self.p_NK[index]


@dataclass(frozen=True)
class Step:
    """A model's result of one call.

    top: distributions, one row for each requested position, oldest first; the last row is for the position after the
        last fed token.
    new_ids: tokens the model decoded; the last of them has not been fed yet.
    session: the session's number.
    new_p: probabilities of `new_ids`, if they were sampled and rows were requested; else (). The most likely token is
        always in its row, a sampled token may not be.
    weight: σ(l_W) at the last position of the tokens given to `open`; None where the model has no `[WEIGHT]` token.
    weights: σ(l_W) at each position of `top`; () where the model has no `[WEIGHT]` token.
    """

    top: Top
    new_ids: tuple[int, ...]
    session: int
    weight: float | None = None
    new_p: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Reading:
    """Probabilities of the tokens of a text, each given the tokens before it; the first token is left out. top: the
    most likely tokens at each position, N - 1 rows. p_N: float32 probabilities of the tokens themselves, [N - 1].
    """

    top: Top
    p_N: NDArray[np.float32]


class LanguageModel(Protocol):
    """The interface is asynchronous, so that models run in parallel; calls on one session must be made one after
    another. Calls on different sessions may be concurrent; a model serves them in one batch if it can.
    """

    async def open(
        self,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        threshold: float = 0.0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        """Prefill `ids` in a new session; `rows` last positions are returned.

        Then decode up to `decode` tokens, but only if the gate weight reaches `threshold` (a model without a gate
        always does). Raises `ContextLengthError` when the tokens do not fit.
        """

    async def extend(
        self,
        session: int,
        keep: int,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        """Cut the session back to its first `keep` tokens, feed `ids` (at least one), then decode as `open` does.

        `rows` counts positions among `ids` from the end; decoding adds one row for each further token fed.
        """

    async def score(self, ids: Sequence[int]) -> Reading:
        """Probabilities of the tokens of a text of at least one token; no session remains open.

        Raises `ContextLengthError` when the tokens do not fit.
        """

    async def fork(self, session: int) -> int:
        """A new session with a copy of the state of `session`; no token is fed again."""

    async def close(self, session: int) -> None:
        """Free the session; unknown sessions are ignored."""
