"""A scripted `LanguageModel`: its next text and its gate weight are functions of the text so far."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from onceedit_ray.models.codec import Codec
from onceedit_ray.models.protocol import Step, Top
from onceedit_ray.models.sampling import GREEDY, Sampling


class ScriptedModel:
    """Args:
    codec: its tokenizer. goes_on: the text so far → what is written next; "" for the end of text. weight: the text so
    far → the gate's weight there; None for a model without a gate. otherwise: the second most likely
    text.
    """

    def __init__(
        self,
        codec: Codec,
        goes_on: Callable[[str], str],
        weight: Callable[[str], float] | None = None,
        otherwise: str = "",
    ) -> None:
        self._codec = codec
        self._goes_on = goes_on
        self._weight = weight
        self._otherwise = codec.encode_bytes(otherwise.encode())[:1]
        self._numbers = itertools.count(1)
        self.sessions: dict[int, list[int]] = {}
        self.fed = 0

    async def open(
        self,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        threshold: float = 0.0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        number = next(self._numbers)
        self.sessions[number] = []
        step = await self.extend(number, 0, ids, rows, decode, sampling)
        if self._weight is None:
            return step
        weight = self._weight(self._codec.text_of(ids))
        if weight < threshold:
            step = await self.extend(number, 0, ids, rows, 0, sampling)
        return Step(step.top, step.new_ids, number, weight, (), step.weights)

    async def extend(
        self,
        session: int,
        keep: int,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        held = self.sessions[session]
        assert ids and 0 <= keep <= len(held)
        held[keep:] = ids
        self.fed += len(ids)
        places = [len(held) - rows + 1 + row for row in range(rows)] if rows else []
        chosen = [self._next(held[:place]) for place in places]
        weights = [self._gate(held[:place]) for place in places]
        new: list[int] = []
        for number in range(decode):
            token = self._next(held)
            new.append(token)
            if token in self._codec.end_ids or number == decode - 1:
                break
            held.append(token)
            if rows:
                chosen.append(self._next(held))
                weights.append(self._gate(held))
        ids_NK = np.array([[token, *self._otherwise] for token in chosen], np.int32).reshape(
            len(chosen), 1 + len(self._otherwise)
        )
        p_NK = np.full(ids_NK.shape, 0.1, np.float32)
        p_NK[:, :1] = 0.9
        top = Top(ids_NK, p_NK)
        return Step(top, tuple(new), session, None, (), tuple(weights) if self._weight else ())

    async def fork(self, session: int) -> int:
        number = next(self._numbers)
        self.sessions[number] = list(self.sessions[session])
        return number

    async def close(self, session: int) -> None:
        self.sessions.pop(session, None)

    def _gate(self, ids: Sequence[int]) -> float:
        return self._weight(self._codec.text_of(ids)) if self._weight else 0.0

    def _next(self, ids: Sequence[int]) -> int:
        text = self._goes_on(self._codec.text_of(ids))
        return self._codec.encode_bytes(text.encode())[0] if text else self._codec.end_id
