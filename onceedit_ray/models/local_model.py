"""A transformers causal LM in this process: sessions, served in batches.

Whatever calls wait when a pass begins are served by it together, and a call that is done leaves after any pass
(continuous batching). The order of calls on one session is kept. Knows token ids only: no text, no fusion, no Ray.

Shapes: N positions, K entries kept, V vocabulary.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from onceedit_ray.errors import ContextLengthError, ModelError, SessionLostError
from onceedit_ray.models.loading import context_length
from onceedit_ray.models.passes import PassRow, passes_for
from onceedit_ray.models.protocol import Step, Top
from onceedit_ray.models.sampling import GREEDY, Sampling, draw_from_logits

PADDING = 2.0
SMALL = 32
"""Rows share a pass while padding makes it at most `PADDING` times the tokens fed, or `SMALL` tokens in all."""


@dataclass
class _Session:
    number: int
    place: int
    ids: list[int] = field(default_factory=list)
    held: int = 0  # how many of `ids` the place holds


@dataclass
class _Call:
    """One call on a session, until it is answered."""

    session: _Session
    ids: list[int]
    rows: int
    decode: int
    sampling: Sampling
    answer: asyncio.Future[Step]
    keep: int | None = None  # None opens the session
    threshold: float = 0.0
    feed: list[int] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    new_ids: list[int] = field(default_factory=list)
    new_p: list[float] = field(default_factory=list)
    weight: float | None = None
    begun: bool = False

    @property
    def wanted(self) -> int:
        """Last positions of `feed` whose logits are needed."""
        return 1 if self.begun else max(min(self.rows, len(self.feed)), 1)


@dataclass
class _Fork:
    source: _Session
    session: _Session
    answer: asyncio.Future[int]


@dataclass
class _Release:
    session: _Session


class LocalModel:
    """`LanguageModel` over a loaded transformers model. Passes run in a thread of its own.

    Args:
        model: in eval mode, on its device.
        end_ids: tokens at which decoding stops.
        weight_id: the `[WEIGHT]` token, kept out of every distribution; None for a target.
        top_k: entries kept of each distribution.
        name: for messages.
        threads: that torch takes for a pass, 0 for as many as it takes where this is made.
        context: tokens that a session holds; None takes what the model's configuration states.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Collection[int],
        weight_id: int | None = None,
        top_k: int = 64,
        name: str = "model",
        threads: int = 0,
        context: int | None = None,
    ) -> None:
        self.network = model
        self._end_ids = frozenset(end_ids)
        self._weight_id = weight_id
        self._top_k = top_k
        self._name = name
        self._context = context or context_length(model.config)
        self._rows = model.get_input_embeddings().weight.shape[0]
        self._cached = passes_for(model)
        self._sessions: dict[int, _Session] = {}
        self._numbers = itertools.count(time.time_ns())  # never those of this model's life before a restart
        # Said in every model's thread: what one says is what threads that say nothing begin with.
        self._thread = ThreadPoolExecutor(1, name, torch.set_num_threads, (threads or torch.get_num_threads(),))
        self._waiting: deque[_Call | _Fork | _Release] = deque()
        self._lock = threading.Lock()
        self._serving = False
        self.passes = 0
        self.tokens = 0

    # --- the protocol, called in an event loop -----------------------------------------------------------------------

    async def open(
        self,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        threshold: float = 0.0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        if not ids:
            raise ModelError(f"{self._name} was given an empty prompt; give it at least one token")
        self._check_room(len(ids))
        self._check_tokens(ids)
        session = _Session(next(self._numbers), place=-1)
        call = _Call(session, list(ids), rows, decode, sampling, _future(), threshold=threshold)
        self._sessions[session.number] = session
        self._submit(call)
        try:
            return await call.answer
        except BaseException:  # the caller went away, or the pass failed: nobody will close it
            self._release(session.number)
            raise

    async def extend(
        self,
        session: int,
        keep: int,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        known = self._session(session)
        if not ids or not 0 <= keep <= len(known.ids):
            raise ValueError(f"keep {keep} of {len(known.ids)} tokens and feed {len(ids)}: impossible")
        self._check_room(keep + len(ids))  # before anything is cut: a refused call leaves the session as it was
        self._check_tokens(ids)
        call = _Call(known, list(ids), rows, decode, sampling, _future(), keep=keep)
        self._submit(call)
        return await call.answer

    async def fork(self, session: int) -> int:
        fork = _Fork(self._session(session), _Session(next(self._numbers), place=-1), _future())
        self._sessions[fork.session.number] = fork.session
        self._submit(fork)
        try:
            return await fork.answer
        except BaseException:  # the caller went away: nobody will close it
            self._release(fork.session.number)
            raise

    async def close(self, session: int) -> None:
        self._release(session)

    @property
    def open_sessions(self) -> int:
        """How many sessions hold a cache."""
        return len(self._sessions)

    @property
    def cache_bytes(self) -> int:
        """Bytes that the sessions' keys and values take."""
        return self._cached.nbytes()

    def _session(self, number: int) -> _Session:
        try:
            return self._sessions[number]
        except KeyError:
            raise SessionLostError(f"{self._name} has no session {number}; open one again") from None

    def _check_room(self, tokens: int) -> None:
        if tokens > self._context:
            raise ContextLengthError(
                f"{tokens} tokens do not fit the context of {self._context} tokens of {self._name}; shorten the prompt"
            )

    def _check_tokens(self, ids: Sequence[int]) -> None:
        if not 0 <= min(ids) <= max(ids) < self._rows:
            raise ModelError(
                f"token {max(ids)} of the prompt has no row in the embedding of {self._name} ({self._rows} rows): its "
                "tokenizer has more tokens than the model; leave the word out, or give the model's own tokenizer"
            )

    def _release(self, number: int) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            self._waiting.append(_Release(session))  # freed before the next pass
            self._start()

    def _submit(self, call: _Call | _Fork) -> None:
        """Hand a call over at the end of this turn of the event loop, together with the others of the turn."""
        self._waiting.append(call)
        call.answer.get_loop().call_soon(self._start)

    def _start(self) -> None:
        with self._lock:
            if not self._serving and self._waiting:
                self._serving = True
                self._thread.submit(self._serve)

    # --- the thread --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _serve(self) -> None:
        """Passes until no call is left."""
        active: list[_Call] = []
        while True:
            with self._lock:
                arrived = [self._waiting.popleft() for _ in range(len(self._waiting))]
                if not arrived and not active:
                    self._serving = False
                    return
            answers: list[tuple[asyncio.Future[Any], object]] = []
            for item in arrived:
                if isinstance(item, _Release):
                    active = [call for call in active if call.session is not item.session]
                    if item.session.place >= 0:
                        self._cached.give_back(item.session.place)
                elif isinstance(item, _Fork):
                    answers.append((item.answer, self._forked(item)))
                else:
                    self._begin(item)
                    active.append(item)
            for calls in self._shared_passes(active):
                finished, failed = self._passed(calls)
                answers += [(call.answer, self._answer(call)) for call in finished]
                answers += [(call.answer, error) for call, error in failed]
                gone = {id(call) for call in finished} | {id(call) for call, _ in failed}
                active = [call for call in active if id(call) not in gone]
            _deliver(answers)

    def _passed(self, calls: Sequence[_Call]) -> tuple[list[_Call], list[tuple[_Call, Exception]]]:
        """The calls that a pass finishes, and those that fail: where a shared pass fails, each call by itself."""
        rows = [PassRow(call.session.place, call.session.held, call.feed, call.wanted) for call in calls]
        try:
            logits = self._cached.logits(rows)
        except Exception as error:
            if len(calls) == 1:
                return [], [(calls[0], error)]
            alone = [self._passed([call]) for call in calls]
            return [call for done, _ in alone for call in done], [each for _, failed in alone for each in failed]
        try:
            return self._take(calls, logits), []
        except Exception as error:  # the sessions hold what was fed: it cannot be fed again
            return [], [(call, error) for call in calls]

    def _begin(self, call: _Call) -> None:
        session = call.session
        if call.keep is None:
            session.place = self._cached.take()
        else:
            session.ids = session.ids[: call.keep]
            if session.held > call.keep:
                session.held = self._cached.cut(session.place, session.held, call.keep)
        call.feed = session.ids[session.held :] + call.ids
        session.ids = session.ids[: session.held]

    def _forked(self, fork: _Fork) -> int:
        fork.session.ids = list(fork.source.ids)
        fork.session.place, fork.session.held = self._cached.copy(fork.source.place, fork.source.held)
        return fork.session.number

    def _shared_passes(self, active: Sequence[_Call]) -> list[list[_Call]]:
        """Which calls run together: those of like length, where padding costs little."""
        if not self._cached.batches:
            return [[call] for call in active]
        groups: list[list[_Call]] = []
        for call in sorted(active, key=lambda call: -len(call.feed)):
            if groups:
                padded = len(groups[-1][0].feed) * (len(groups[-1]) + 1)
                fed = sum(len(other.feed) for other in groups[-1]) + len(call.feed)
                if padded <= max(SMALL, PADDING * fed):
                    groups[-1].append(call)
                    continue
            groups.append([call])
        return groups

    def _take(self, calls: Sequence[_Call], logits: Sequence[Tensor]) -> list[_Call]:
        """What a forward pass gave each of `calls`, its last rows; returns the calls that are done."""
        self.passes += 1
        self.tokens += sum(len(call.feed) for call in calls)
        for call, logits_NV in zip(calls, logits, strict=True):
            call.session.ids += call.feed
            call.session.held = len(call.session.ids)
            if not call.begun and call.keep is None and self._weight_id is not None:
                call.weight = float(torch.sigmoid(logits_NV[-1, self._weight_id].float()))
                call.decode = call.decode if call.weight >= call.threshold else 0
            if self._weight_id is not None:
                logits_NV[:, self._weight_id] = -torch.inf
            call.begun = True
        self._keep_tops([(call, logits_NV) for call, logits_NV in zip(calls, logits, strict=True) if call.rows])
        going = [(call, logits_NV[-1]) for call, logits_NV in zip(calls, logits, strict=True) if call.decode]
        self._choose_next(going)
        return [call for call in calls if self._done(call)]

    def _keep_tops(self, wanted: Sequence[tuple[_Call, Tensor]]) -> None:
        """The most likely tokens of every row asked for, over all calls at once."""
        if not wanted:
            return
        logits_NV = torch.cat([logits_NV for _, logits_NV in wanted]).float()
        real = logits_NV.shape[1] - (self._weight_id is not None)
        top = logits_NV.topk(min(self._top_k, real), dim=-1)
        p_NK = torch.exp(top.values - logits_NV.logsumexp(-1, keepdim=True)).cpu().numpy()
        ids_NK = top.indices.int().cpu().numpy()
        start = 0
        for call, rows_NV in wanted:
            end = start + len(rows_NV)
            call.tops.append(Top(ids_NK[start:end], p_NK[start:end]))
            start = end

    def _choose_next(self, going: Sequence[tuple[_Call, Tensor]]) -> None:
        greedy = [(call, last_V) for call, last_V in going if call.sampling.greedy]
        if greedy:
            chosen = torch.stack([last_V for _, last_V in greedy]).argmax(-1).tolist()
            for (call, _), token in zip(greedy, chosen, strict=True):
                call.new_ids.append(token)
        for call, last_V in going:
            if not call.sampling.greedy:
                call.new_ids.append(draw_from_logits(last_V, call.sampling, len(call.session.ids)))
                if call.rows:
                    call.new_p.append(float(torch.log_softmax(last_V.float(), -1)[call.new_ids[-1]].exp()))

    def _done(self, call: _Call) -> bool:
        full = len(call.session.ids) >= self._context
        if len(call.new_ids) >= call.decode or call.new_ids[-1] in self._end_ids or full:
            return True
        call.feed = call.new_ids[-1:]
        return False

    def _answer(self, call: _Call) -> Step:
        if len(call.tops) == 1:
            (top,) = call.tops
        elif call.tops:
            top = Top(np.concatenate([t.ids_NK for t in call.tops]), np.concatenate([t.p_NK for t in call.tops]))
        else:
            top = Top(np.empty((0, 0), np.int32), np.empty((0, 0), np.float32))
        return Step(top, tuple(call.new_ids), call.session.number, call.weight, tuple(call.new_p))


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def _deliver(answers: Sequence[tuple[asyncio.Future[Any], object]]) -> None:
    """Set results in the event loops that wait for them, all of one loop in one turn of it."""
    loops = {id(future.get_loop()): future.get_loop() for future, _ in answers}

    def settle(loop_id: int) -> None:
        for future, value in answers:
            if id(future.get_loop()) == loop_id and not future.done():
                if isinstance(value, Exception):
                    future.set_exception(value)
                else:
                    future.set_result(value)

    for loop_id, loop in loops.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, loop_id)
