"""`openai_tokens`: a server of OpenAI's API that takes token ids and returns log probabilities, as vLLM does.

Its tokens are known here, so every fusion strategy and every evaluation can use it, as if it were loaded. A session is
a list of token ids: cutting it back, forking and closing it cost nothing, and the server's prefix cache keeps the keys
and values. A draft of k tokens is verified by one request, with its k + 1 prefixes as prompts and one token for each.

Shapes: N positions, K entries kept.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onceedit_ray.config import OPENAI_TOKENS
from onceedit_ray.errors import ContextLengthError, SessionLostError
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.engines import ENGINES
from onceedit_ray.models.engines.abilities import TOKEN_IDS, Abilities
from onceedit_ray.models.engines.continuing import TEXT
from onceedit_ray.models.engines.openai import OpenAIEngine
from onceedit_ray.models.loading import load_tokenizer
from onceedit_ray.models.protocol import Reading, Step, Top
from onceedit_ray.models.sampling import GREEDY, Sampling

PREFIX = "token_id:"
"""vLLM writes a token as this and its id if it is asked for `return_tokens_as_token_ids`."""
UNBOUNDED = 10**9
"""Tokenizers without a limit state a huge number."""


@ENGINES.register(OPENAI_TOKENS)
class OpenAITokensEngine(OpenAIEngine):
    """A target's server whose tokens and log probabilities are used. Requests about no edit pass through, as for
    `openai`.
    """

    about: ClassVar[str] = "a server of OpenAI's API with token ids and log probabilities: vLLM, llama.cpp"
    distributions: ClassVar[bool] = True

    async def check(self) -> Abilities:
        """As `OpenAIEngine.check`; raises `EngineError`, too, if the server lacks what this engine needs."""
        found = await super().check()
        if not (found.token_ids and found.logprobs):
            raise self.complaints.no_tokens(str(found))
        return found

    def codec(self) -> Codec:
        """The codec of the target's tokenizer; raises `ModelError` if there is none that can be used."""
        folder = self.tokenizer_path()
        return open_codec(folder) if (folder / "config.json").is_file() else Codec(load_tokenizer(folder))

    def language_model(self, codec: Codec, top_k: int) -> ServerModel:
        """The server as a model with sessions; top_k: entries of each distribution, at most as many as the server
        returns.
        """
        stated = int(codec.tokenizer.model_max_length)
        context = self.config.context or (stated if stated < UNBOUNDED else None)
        return ServerModel(self, codec.end_ids, top_k, context)


@dataclass(frozen=True)
class _Written:
    """One choice of an answer. ids, p: the tokens and their probabilities. rows: for each, ids and probabilities of
    the most likely tokens. stopped: whether the server ended it, rather than its limit.
    """

    ids: list[int]
    p: list[float]
    rows: list[dict[int, float]]
    stopped: bool


class ServerModel:
    """`LanguageModel` over such a server.

    Args:
        server: which answers. end_ids: tokens at which decoding stops. top_k: entries kept of each distribution.
        context: tokens that a session may hold; None leaves it to the server.

    Every method raises `EngineError` if the server does not answer, and leaves the session as it was.
    """

    def __init__(
        self, server: OpenAIEngine, end_ids: Collection[int], top_k: int = 20, context: int | None = None
    ) -> None:
        self._server = server
        self._end_ids = frozenset(end_ids)
        self._top_k = top_k
        self._context = context
        self._sessions: dict[int, list[int]] = {}
        self._numbers = itertools.count(1)

    async def open(
        self,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        threshold: float = 0.0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        session = next(self._numbers)
        step, held = await self._step(session, list(ids), rows, decode, sampling)
        self._sessions[session] = held
        return step

    async def extend(
        self,
        session: int,
        keep: int,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        held = self._held(session)
        if not ids or not 0 <= keep <= len(held):
            raise ValueError(f"keep {keep} of {len(held)} tokens and feed {len(ids)}: impossible")
        step, now = await self._step(session, [*held[:keep], *ids], rows, decode, sampling)
        if session in self._sessions:  # it may have been closed meanwhile
            self._sessions[session] = now
        return step

    async def score(self, ids: Sequence[int]) -> Reading:
        """As `LanguageModel.score`; raises `EngineError` if the server returns no probabilities of prompt tokens."""
        self._check(ids)
        (read,) = await self._asked([list(ids)], 1, GREEDY, echo=True)
        if read.ids[: len(ids)] != list(ids):
            raise self._server.complaints.no_prompt_logprobs()
        return Reading(self._top(read.rows[1 : len(ids)]), np.array(read.p[1 : len(ids)], np.float32))

    async def fork(self, session: int) -> int:
        made = next(self._numbers)
        self._sessions[made] = list(self._held(session))
        return made

    async def close(self, session: int) -> None:
        self._sessions.pop(session, None)

    @property
    def open_sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    def _held(self, session: int) -> list[int]:
        try:
            return self._sessions[session]
        except KeyError:
            raise SessionLostError(f"{self._server.name} has no session {session}; open one again") from None

    def _check(self, ids: Sequence[int]) -> None:
        """Raise `ContextLengthError` if no token can follow."""
        if self._context is not None and len(ids) >= self._context:
            raise ContextLengthError(
                f"{len(ids)} tokens and an answer do not fit the context of {self._context} tokens of "
                f"{self._server.name}; shorten the prompt"
            )

    async def _step(
        self, session: int, ids: list[int], rows: int, decode: int, sampling: Sampling
    ) -> tuple[Step, list[int]]:
        """The result of a call after which `ids` have been fed, and the tokens that the session holds then."""
        self._check(ids)
        room = decode if self._context is None else min(decode, self._context - len(ids))
        asking = []
        if earlier := [ids[:end] for end in range(len(ids) - rows + 1, len(ids) + (room == 0))]:
            asking.append(self._asked(earlier, 1, GREEDY))
        if room:
            asking.append(self._asked([ids], room, sampling))
        answers = await asyncio.gather(*asking)
        told = [each.rows[0] for each in answers[0]] if earlier else []
        if not room:
            return Step(self._top(told), (), session), ids
        (written,) = answers[-1]
        if rows:
            told += written.rows
        p = () if sampling.greedy or not rows else tuple(written.p)
        return Step(self._top(told), tuple(written.ids), session, new_p=p), [*ids, *written.ids[:-1]]

    async def _asked(
        self, prompts: list[list[int]], tokens: int, sampling: Sampling, echo: bool = False
    ) -> list[_Written]:
        """What the server writes after each of the prompts: at most so many tokens, up to an end of text."""
        most = (await self._server.abilities()).logprobs
        body: dict[str, Any] = {
            "prompt": prompts,
            "max_tokens": tokens,
            "logprobs": min(self._top_k, most),
            "temperature": sampling.temperature,
            **TOKEN_IDS,
        }
        if not sampling.greedy:
            body |= {"top_p": sampling.top_p, "seed": (sampling.seed + len(prompts[0])) % 2**31}
        if echo:
            body["echo"] = True
        async with self._server.answer(TEXT, body) as response:
            answer = await self._server.whole(response)
        choices = sorted(answer.get("choices") or (), key=lambda choice: int(choice.get("index") or 0))
        if len(choices) != len(prompts):
            raise self._server.complaints.no_tokens(f"{len(choices)} answers to {len(prompts)} prompts")
        return [self._written(choice) for choice in choices]

    def _written(self, choice: Mapping[str, Any]) -> _Written:
        ids: list[int] = []
        p: list[float] = []
        rows: list[dict[int, float]] = []
        for token, logprob, likely in self._entries(choice.get("logprobs") or {}):
            ids.append(token)
            p.append(logprob)
            rows.append(dict(sorted(likely, key=lambda entry: -entry[1])[: self._top_k]))
            if token in self._end_ids:
                return _Written(ids, p, rows, True)
        stopped = choice.get("finish_reason") == "stop"
        if stopped and self._end_ids:  # some servers leave the end of text out
            end = min(self._end_ids)
            return _Written([*ids, end], [*p, 1.0], [*rows, {end: 1.0}], True)
        if not ids:
            raise self._server.complaints.no_tokens("no token and no log probability")
        return _Written(ids, p, rows, stopped)

    def _entries(self, told: Mapping[str, Any]) -> Iterable[tuple[int, float, list[tuple[int, float]]]]:
        """Of each token its id, its probability, and the most likely tokens with theirs, in vLLM's form of OpenAI's
        completions or in llama.cpp's, which is that of chats. The first token of a prompt has none.
        """
        try:
            if content := told.get("content"):
                for entry in content:
                    likely = [(int(each["id"]), math.exp(each["logprob"])) for each in entry["top_logprobs"]]
                    yield int(entry["id"]), math.exp(entry["logprob"]), likely
                return
            for token, logprob, top in zip(
                told.get("tokens") or (), told.get("token_logprobs") or (), told.get("top_logprobs") or (), strict=True
            ):
                likely = [(_id(each), math.exp(value)) for each, value in (top or {}).items()]
                yield _id(token), math.exp(logprob or 0.0), likely
        except (KeyError, ValueError, TypeError):
            raise self._server.complaints.no_tokens("log probabilities without token ids") from None

    def _top(self, rows: Sequence[Mapping[int, float]]) -> Top:
        """The rows as arrays; shorter ones are filled up with tokens of probability 0."""
        most = max(map(len, rows), default=0)
        ids_NK, p_NK = np.zeros((len(rows), most), np.int32), np.zeros((len(rows), most), np.float32)
        for number, row in enumerate(rows):
            others = itertools.islice((token for token in itertools.count() if token not in row), most - len(row))
            ids_NK[number], p_NK[number, : len(row)] = [*row, *others], list(row.values())
        return Top(ids_NK, p_NK)


def _id(token: str) -> int:
    if not token.startswith(PREFIX):
        raise ValueError(token)
    return int(token.removeprefix(PREFIX))
