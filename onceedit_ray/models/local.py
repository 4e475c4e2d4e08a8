"""A transformers causal LM in this process, with KV-cached sessions.

Knows token ids only: no text, no fusion, no Ray. Any causal LM that transformers can run works without code of its own.

Shapes: N positions, K entries kept, V vocabulary.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from onceedit_ray.errors import ContextLengthError, ModelError, SessionLostError
from onceedit_ray.models.loading import context_length
from onceedit_ray.models.opening import kept_or_closed
from onceedit_ray.models.protocol import Step, Top


@dataclass
class _Session:
    cache: DynamicCache
    ids: list[int]
    floor: int = 0  # a sliding-window cache that was cut cannot be cut back below this length again


class LocalModel:
    """`LanguageModel` over a loaded transformers model. Calls run one after another in a thread of its own.

    Args:
        model: in eval mode, on its device.
        end_ids: tokens at which decoding stops.
        weight_id: the `[WEIGHT]` token, kept out of every distribution; None for a target.
        top_k: entries kept of each distribution.
        name: for messages.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Collection[int],
        weight_id: int | None = None,
        top_k: int = 64,
        name: str = "model",
    ) -> None:
        self._model = model
        self._end_ids = frozenset(end_ids)
        self._weight_id = weight_id
        self._top_k = top_k
        self._name = name
        self._context = context_length(model.config)
        self._sliding = getattr(model.config.get_text_config(), "sliding_window", None) or None
        self._sessions: dict[int, _Session] = {}
        self._numbers = itertools.count(time.time_ns())  # never those of this model's life before a restart
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self.passes = 0

    async def open(self, ids: Sequence[int], rows: int = 1, decode: int = 0, threshold: float = 0.0) -> Step:
        opening = self._in_thread(self._open, list(ids), rows, decode, threshold)
        return await kept_or_closed(opening, lambda session: self._sessions.pop(session, None))

    async def extend(self, session: int, keep: int, ids: Sequence[int], rows: int = 1, decode: int = 0) -> Step:
        return await self._in_thread(self._extend, session, keep, list(ids), rows, decode)

    async def close(self, session: int) -> None:
        self._sessions.pop(session, None)

    @property
    def open_sessions(self) -> int:
        """How many sessions hold a cache."""
        return len(self._sessions)

    async def _in_thread(self, call, *args) -> Step:  # type: ignore[no-untyped-def]
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    @torch.inference_mode()
    def _open(self, ids: list[int], rows: int, decode: int, threshold: float) -> Step:
        if not ids:
            raise ModelError(f"{self._name} was given an empty prompt; give it at least one token")
        session = _Session(self._new_cache(), [])
        logits_NV = self._feed(session, ids, max(rows, 1))
        weight = None
        if self._weight_id is not None:
            weight = float(torch.sigmoid(logits_NV[-1, self._weight_id].float()))
        number = next(self._numbers)
        self._sessions[number] = session
        if weight is not None and weight < threshold:
            decode = 0
        return self._answer(number, session, logits_NV, rows, decode, weight)

    @torch.inference_mode()
    def _extend(self, number: int, keep: int, ids: list[int], rows: int, decode: int) -> Step:
        try:
            session = self._sessions[number]
        except KeyError:
            raise SessionLostError(f"{self._name} has no session {number}; open one again") from None
        if not ids or not 0 <= keep <= len(session.ids):
            raise ValueError(f"keep {keep} of {len(session.ids)} tokens and feed {len(ids)}: impossible")
        self._check_room(keep + len(ids))  # before anything is cut: a refused call leaves the session as it was
        kept = session.ids[:keep]
        if keep < session.floor:
            session.cache, session.ids, session.floor = self._new_cache(), [], 0
            ids, rows = kept + ids, min(rows, len(ids))
        else:
            self._cut(session, keep)
        return self._answer(number, session, self._feed(session, ids, max(rows, 1)), rows, decode, None)

    def _answer(
        self, number: int, session: _Session, logits_NV: Tensor, rows: int, decode: int, weight: float | None
    ) -> Step:
        """Decode greedily from the last row, and gather the rows' most likely tokens."""
        tops = [self._top(logits_NV)] if rows else []
        new_ids: list[int] = []
        while len(new_ids) < decode:
            new_ids.append(int(self._choice(logits_NV)))
            if new_ids[-1] in self._end_ids or len(new_ids) == decode or len(session.ids) >= self._context:
                break
            logits_NV = self._feed(session, new_ids[-1:], 1)
            if rows:
                tops.append(self._top(logits_NV))
        empty = Top(np.empty((0, 0), np.int32), np.empty((0, 0), np.float32))
        joined = (
            Top(np.concatenate([t.ids_NK for t in tops]), np.concatenate([t.p_NK for t in tops])) if tops else empty
        )
        return Step(joined, tuple(new_ids), number, weight)

    def _feed(self, session: _Session, ids: list[int], rows: int) -> Tensor:
        """Run `ids` through the model; the logits of the last `rows` positions, [N, V]."""
        self._check_room(len(session.ids) + len(ids))
        ids_1N = torch.tensor([ids], device=self._model.device)
        out = self._model(ids_1N, past_key_values=session.cache, use_cache=True, logits_to_keep=rows)
        session.ids += ids
        self.passes += 1
        return out.logits[0, -rows:]

    def _check_room(self, tokens: int) -> None:
        if tokens > self._context:
            raise ContextLengthError(
                f"{tokens} tokens do not fit the context of {self._context} tokens of {self._name}; shorten the prompt"
            )

    def _cut(self, session: _Session, keep: int) -> None:
        surplus = len(session.ids) - keep
        if surplus:
            session.cache.crop(-surplus)
            session.ids = session.ids[:keep]
            if self._sliding is not None and keep + surplus >= self._sliding:
                session.floor = keep

    def _new_cache(self) -> DynamicCache:
        cache = DynamicCache(config=self._model.config)
        cache.activate_past_recording()
        return cache

    def _choice(self, logits_NV: Tensor) -> Tensor:
        if self._weight_id is None:
            return logits_NV[-1].argmax()
        return logits_NV[-1].index_fill(0, torch.tensor(self._weight_id, device=logits_NV.device), -torch.inf).argmax()

    def _top(self, logits_NV: Tensor) -> Top:
        logits_NV = logits_NV.float()
        if self._weight_id is not None:
            logits_NV = logits_NV.clone()
            logits_NV[:, self._weight_id] = -torch.inf
        real = logits_NV.shape[1] - (self._weight_id is not None)
        top_NK = logits_NV.topk(min(self._top_k, real), dim=-1)
        p_NK = torch.exp(top_NK.values - logits_NV.logsumexp(-1, keepdim=True))
        return Top(top_NK.indices.int().cpu().numpy(), p_NK.cpu().numpy())


def _joined(tops: Sequence[Top]) -> Top:
    if not tops:
        return Top(np.empty((0, 0), np.int32), np.empty((0, 0), np.float32))
    return Top(np.concatenate([top.ids_NK for top in tops]), np.concatenate([top.p_NK for top in tops]))
