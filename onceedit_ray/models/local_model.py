"""A transformers causal LM in this process: sessions, served in batches.

A pass serves all calls that wait when it begins, and a finished call leaves after any pass (continuous batching). The
order of calls on one session is kept. This module knows token ids only: no text, no fusion, no Ray.

Shapes: N positions, K entries kept, V vocabulary.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from onceedit_ray.errors import CrowdedError, ModelError, PromptError, SessionLostError
from onceedit_ray.models.cache_room import CacheRoom
from onceedit_ray.models.loading import context_length
from onceedit_ray.models.pass_threads import PassThreads
from onceedit_ray.models.passes import PassRow, passes_for
from onceedit_ray.models.protocol import Reading, Step, Top
from onceedit_ray.models.sampling import GREEDY, Sampling, draw_from_logits
from onceedit_ray.models.session_calls import Answer, Call, Fork, Release, Session, deliver, future, is_settled

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel

PADDING = 2.0
SMALL = 32
"""Rows share a pass if the padded pass has at most `PADDING` times the fed tokens, or at most `SMALL` tokens in all."""
MOST_WAITING = 1024
"""Number of sessions that may wait for memory; one more is refused."""
LOOK_SECONDS = 0.05
"""How often calls that wait for memory are looked at while nothing else happens."""
SCORED_AT_ONCE = 64
"""Number of positions whose distributions are held at once while a text is scored."""


class LocalModel:
    """`LanguageModel` over a loaded transformers model. Passes run in a separate thread.

    Args:
        model: in eval mode, on its device.
        end_ids: tokens at which decoding stops.
        weight_id: the `[WEIGHT]` token, kept out of every distribution; None for a target.
        top_k: entries kept of each distribution.
        name: for messages.
        threads: number of torch threads of a pass; None for the number of the thread that makes this object.
        context: tokens that a session holds; None takes what the model's configuration states.
        cache_limit: bytes of all sessions' keys and values (`cache_room`); None for no limit.

    Raises `ModelError` if not even a short session fits the limit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        end_ids: Collection[int],
        weight_id: int | None = None,
        top_k: int = 64,
        name: str = "model",
        threads: PassThreads | None = None,
        context: int | None = None,
        cache_limit: int | None = None,
    ) -> None:
        self.network = model
        self._end_ids = frozenset(end_ids)
        self._weight_id = weight_id
        self._top_k = top_k
        self._name = name
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self._cached = passes_for(model)
        self._room = CacheRoom(self._cached, name, context or context_length(model.config), cache_limit)
        self.context = self._room.context
        self._sessions: dict[int, Session] = {}
        self._numbers = itertools.count(time.time_ns())  # differ from the numbers before a restart
        # Set before every pass: a new thread starts with the number that was set last, in whatever thread.
        self._threads = threads or PassThreads(torch.get_num_threads(), torch.get_num_threads())
        self._thread = ThreadPoolExecutor(1, name)
        self._waiting: deque[Call | Fork | Release] = deque()
        self._lock = threading.Lock()
        self._arrived = threading.Event()
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
        self._check(ids, len(ids))
        if self.waiting_sessions >= MOST_WAITING:
            raise CrowdedError(f"{MOST_WAITING} sessions wait for memory of {self._name} already; ask again later")
        session = Session(next(self._numbers))
        call = Call(session, list(ids), rows, decode, sampling, future(), threshold=threshold)
        self._sessions[session.number] = session
        self._submit(call)
        try:
            return await call.answer
        except BaseException:  # the caller was cancelled or the pass failed: free the session here
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
        if not ids:
            raise ValueError(f"keep {keep} and feed no token: impossible")
        self._check(ids, keep + len(ids))  # before the cut, so that a refused call leaves the session unchanged
        call = Call(known, list(ids), rows, decode, sampling, future(), keep=keep)
        self._submit(call)
        return await call.answer

    async def score(self, ids: Sequence[int]) -> Reading:
        self._check(ids, len(ids))
        session = Session(next(self._numbers))
        self._sessions[session.number] = session
        steps: list[Step] = []
        try:
            for start in range(0, len(ids) - 1, SCORED_AT_ONCE):
                end = min(start + SCORED_AT_ONCE, len(ids) - 1)
                call = Call(session, list(ids[start:end]), end - start, 0, GREEDY, future(), keep=start or None)
                call.asked = list(ids[start + 1 : end + 1])
                self._submit(call)
                steps.append(await call.answer)
        finally:
            self._release(session.number)
        return Reading(_joined([step.top for step in steps]), np.array([p for s in steps for p in s.new_p], np.float32))

    async def fork(self, session: int) -> int:
        fork = Fork(self._session(session), Session(next(self._numbers)), future())
        self._sessions[fork.made.number] = fork.made
        self._submit(fork)
        try:
            return await fork.answer
        except BaseException:  # the caller was cancelled: free the fork here
            self._release(fork.made.number)
            raise

    async def close(self, session: int) -> None:
        self._release(session)

    @property
    def open_sessions(self) -> int:
        """How many sessions hold a cache."""
        return len(self._sessions)

    @property
    def waiting_sessions(self) -> int:
        """How many sessions have no cache: they wait for memory, or were preempted."""
        return sum(session.place < 0 for session in list(self._sessions.values()))

    @property
    def preempted_sessions(self) -> int:
        """How many times a session lost its cache to another one, which had waited for memory."""
        return self._room.preempted

    @property
    def cache_bytes(self) -> int:
        """Size of the sessions' keys and values in bytes."""
        return self._cached.nbytes()

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in bytes; 0 where there is no limit, so that it was not measured."""
        return self._cached.token_bytes

    @property
    def cache_limit(self) -> int | None:
        """The most bytes of keys and values; None for no limit."""
        return self._room.limit

    def _session(self, number: int) -> Session:
        try:
            return self._sessions[number]
        except KeyError:
            raise SessionLostError(f"{self._name} has no session {number}; open one again") from None

    def _check(self, ids: Sequence[int], tokens: int) -> None:
        """Refuse a call that would fail in the network, and would make all calls of its pass fail."""
        self._room.check(tokens)
        if not 0 <= min(ids) <= max(ids) < self._vocabulary:
            raise PromptError(
                f"{self._name} has tokens 0 to {self._vocabulary - 1}, and was given {min(ids)} or {max(ids)}: its "
                "tokenizer may have more tokens than the model has rows; leave the word out"
            )

    def _release(self, number: int) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            self._waiting.append(Release(session))  # freed before the next pass
            self._start()

    def _submit(self, call: Call | Fork) -> None:
        """Pass a call to the thread at the end of this iteration of the event loop, together with its other calls."""
        self._waiting.append(call)
        call.answer.get_loop().call_soon(self._start)

    def _start(self) -> None:
        self._arrived.set()
        with self._lock:
            if not self._serving and self._waiting:
                self._serving = True
                self._thread.submit(self._serve)

    # --- the thread --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _serve(self) -> None:
        """Run passes until no call is left. Every accepted call gets a result or an error."""
        waiting: list[Call | Fork] = []
        while True:
            self._arrived.clear()
            with self._lock:
                arrived = [self._waiting.popleft() for _ in range(len(self._waiting))]
                if not arrived and not waiting:
                    self._serving = False
                    return
            answers: list[Answer] = []
            waiting += [item for item in arrived if not isinstance(item, Release)]
            try:
                for item in arrived:
                    if isinstance(item, Release):
                        answers += self._let_go(item.session, waiting)
                answers += self._advance([item for item in waiting if not is_settled(item, answers)])
            except Exception as error:
                answers += [(item.answer, error) for item in waiting if not is_settled(item, answers)]
            waiting = [item for item in waiting if not is_settled(item, answers)]
            deliver(answers)
            if waiting and not any(isinstance(item, Call) and item.entered for item in waiting):
                self._arrived.wait(LOOK_SECONDS)  # all of them wait for memory

    def _let_go(self, session: Session, waiting: Sequence[Call | Fork]) -> list[Answer]:
        """Free a session that was closed. Calls that wait on it get an error, so that no caller waits for ever."""
        lost = SessionLostError(f"session {session.number} of {self._name} was closed; open one again")
        answers: list[Answer] = []
        for item in waiting:
            if item.session is session or (isinstance(item, Fork) and item.made is session):
                answers.append((item.answer, lost))
        self._room.leave(session)
        return answers

    def _advance(self, waiting: Sequence[Call | Fork]) -> list[Answer]:
        """One pass for the first call of every session, after the forks before it; what comes later waits, in order."""
        first: dict[int, Call] = {}
        answers: list[Answer] = []
        calls: list[Call] = []
        for item in waiting:
            if isinstance(item, Call):
                first.setdefault(item.session.number, item)
            elif item.session.number not in first:
                self._room.fork(item.session, item.made)
                answers.append((item.answer, item.made.number))
        for call in self._room.admit(list(first.values())):
            try:
                if not call.entered:
                    self._begin(call)
                calls.append(call)
            except Exception as error:
                answers.append((call.answer, error))
        for together in self._shared_passes(calls):
            answers += self._answers(together)
        return answers

    def _answers(self, calls: Sequence[Call]) -> list[Answer]:
        """The results of a pass for those `calls` that are done; if a shared pass fails, each call is run by itself."""
        rows = [PassRow(call.session.place, call.session.held, call.feed, call.wanted) for call in calls]
        try:
            self._threads.set_for(sum(len(call.feed) for call in calls))
            logits = self._cached.logits(rows)
        except Exception as error:
            if len(calls) == 1:
                return [(calls[0].answer, error)]
            return [answer for call in calls for answer in self._answers([call])]
        try:
            return [(call.answer, self._answer(call)) for call in self._take(calls, logits)]
        except Exception as error:  # the sessions hold what was fed: it cannot be fed again
            return [(call.answer, error) for call in calls]

    def _begin(self, call: Call) -> None:
        session = call.session
        if call.keep is not None:
            if not 0 <= call.keep <= len(session.ids):
                raise ValueError(f"keep {call.keep} of {len(session.ids)} tokens: impossible")
            session.ids = session.ids[: call.keep]
            if session.held > call.keep:
                session.held = self._cached.cut(session.place, session.held, call.keep)
        call.feed = session.ids[session.held :] + call.ids
        session.ids = session.ids[: session.held]
        call.entered = True

    def _shared_passes(self, active: Sequence[Call]) -> list[list[Call]]:
        """Group the calls that run together: those of similar length, for which padding costs little."""
        if not self._cached.batches:
            return [[call] for call in active]
        groups: list[list[Call]] = []
        for call in sorted(active, key=lambda call: -len(call.feed)):
            if groups:
                padded = len(groups[-1][0].feed) * (len(groups[-1]) + 1)
                fed = sum(len(other.feed) for other in groups[-1]) + len(call.feed)
                end = max(other.session.held for other in [*groups[-1], call]) + len(groups[-1][0].feed)
                if padded <= max(SMALL, PADDING * fed) and self._cached.may_reach(end):
                    groups[-1].append(call)
                    continue
            groups.append([call])
        return groups

    def _take(self, calls: Sequence[Call], logits: Sequence[Tensor]) -> list[Call]:
        """Take the last rows of a forward pass, one array per call; returns the calls that are done."""
        self.passes += 1
        self.tokens += sum(len(call.feed) for call in calls)
        for call, logits_NV in zip(calls, logits, strict=True):
            call.session.ids += call.feed
            call.session.held = len(call.session.ids)
            if self._weight_id is not None:
                w_N = torch.sigmoid(logits_NV[:, self._weight_id].float()).tolist()
                if call.rows:
                    call.weights += w_N
                if not call.begun and call.keep is None:
                    call.weight = w_N[-1]
                    call.decode = call.decode if call.weight >= call.threshold else 0
                logits_NV[:, self._weight_id] = -torch.inf
            call.begun = True
        self._keep_tops([(call, logits_NV) for call, logits_NV in zip(calls, logits, strict=True) if call.rows])
        going = [(call, logits_NV[-1]) for call, logits_NV in zip(calls, logits, strict=True) if call.decode]
        self._choose_next(going)
        return [call for call in calls if self._done(call)]

    def _keep_tops(self, wanted: Sequence[tuple[Call, Tensor]]) -> None:
        """Keep the most likely tokens of every requested row, for all calls at once."""
        if not wanted:
            return
        logits_NV = torch.cat([logits_NV for _, logits_NV in wanted]).float()
        real = logits_NV.shape[1] - (self._weight_id is not None)
        top = logits_NV.topk(min(self._top_k, real), dim=-1)
        total_N1 = logits_NV.logsumexp(-1, keepdim=True)
        p_NK = torch.exp(top.values - total_N1).cpu().numpy()
        ids_NK = top.indices.int().cpu().numpy()
        start = 0
        for call, rows_NV in wanted:
            end = start + len(rows_NV)
            call.tops.append(Top(ids_NK[start:end], p_NK[start:end]))
            if call.asked:
                asked_N1 = torch.tensor(call.asked, device=logits_NV.device)[:, None]
                call.asked_p = torch.exp(logits_NV[start:end].gather(1, asked_N1) - total_N1[start:end])[:, 0].tolist()
            start = end

    def _choose_next(self, going: Sequence[tuple[Call, Tensor]]) -> None:
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

    def _done(self, call: Call) -> bool:
        full = len(call.session.ids) >= self.context
        if len(call.new_ids) >= call.decode or call.new_ids[-1] in self._end_ids or full:
            return True
        call.feed = call.new_ids[-1:]
        return False

    def _answer(self, call: Call) -> Step:
        top, p = _joined(call.tops), call.asked_p or call.new_p
        return Step(top, tuple(call.new_ids), call.session.number, call.weight, tuple(p), tuple(call.weights))


def _joined(tops: Sequence[Top]) -> Top:
    if len(tops) == 1:
        return tops[0]
    if not tops:
        return Top(np.empty((0, 0), np.int32), np.empty((0, 0), np.float32))
    return Top(np.concatenate([top.ids_NK for top in tops]), np.concatenate([top.p_NK for top in tops]))
