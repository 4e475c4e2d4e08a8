"""A server of OpenAI's completions over a small model: token ids as prompts, the most likely tokens with each answer.

It writes its log probabilities as vLLM does, or as llama.cpp does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from onceedit_ray.models.codec import Codec
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.sampling import GREEDY, Sampling

MODEL = "org/small"


@dataclass
class TokenServer:
    """model: in whose process it runs. most: log probabilities that it tells; with more it refuses, as vLLM does.
    ends: whether the end of a text is among the tokens of an answer. echoes: whether it can repeat a prompt. ids:
    whether it can name tokens by their ids. asked: the bodies of the requests.
    """

    model: LocalModel
    codec: Codec
    form: Literal["vllm", "llamacpp"] = "vllm"
    most: int = 20
    ends: bool = True
    echoes: bool = True
    ids: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/completions", self._completions, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def _completions(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.asked.append(body)
        if (body.get("logprobs") or 0) > self.most:
            return JSONResponse({"error": {"message": f"at most {self.most} logprobs"}}, 400)
        given = body["prompt"]
        prompts = [list(self.codec.encode_prompt(given))] if isinstance(given, str) else given
        choices = await asyncio.gather(*(self._choice(body, ids) for ids in prompts))
        usage = {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": 1, "total_tokens": 1}
        told = [{"index": number, **choice} for number, choice in enumerate(choices)]
        return JSONResponse({"object": "text_completion", "model": MODEL, "choices": told[::-1], "usage": usage})

    async def _choice(self, body: dict[str, Any], ids: Sequence[int]) -> dict[str, Any]:
        temperature = body.get("temperature", 1.0)
        sampling = Sampling(temperature, body.get("top_p", 1.0), body.get("seed", 0)) if temperature else GREEDY
        step = await self.model.open(ids, decode=body["max_tokens"], sampling=sampling)
        await self.model.close(step.session)
        new = list(step.new_ids)
        p = step.new_p or tuple(step.top.p_NK[:, 0].tolist())
        entries = [(token, p[n], dict(zip(*map(list, step.top.row(n)), strict=True))) for n, token in enumerate(new)]
        ended = new[-1] in self.codec.end_ids
        if ended and not self.ends:
            entries.pop()
        if body.get("echo") and self.echoes:
            entries = await self._prompt(ids) + entries
        return {
            "text": self.codec.text_of(new),
            "finish_reason": "stop" if ended else "length",
            "logprobs": self._told(entries, body["logprobs"], body) if body.get("logprobs") else None,
        }

    async def _prompt(self, ids: Sequence[int]) -> list[tuple[int, float | None, dict[int, float] | None]]:
        reading = await self.model.score(ids)
        rows = [dict(zip(*map(list, reading.top.row(n)), strict=True)) for n in range(len(ids) - 1)]
        return [(ids[0], None, None), *zip(ids[1:], reading.p_N.tolist(), rows, strict=True)]

    def _told(self, entries: Sequence[Any], number: int, body: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for token, p, row in entries:
            likely = None if row is None else [(int(i), math.log(max(q, 1e-30))) for i, q in list(row.items())[:number]]
            rows.append((token, None if p is None else math.log(max(p, 1e-30)), likely))
        if self.form == "llamacpp":
            content = [
                {"id": token, "logprob": log, "top_logprobs": [{"id": i, "logprob": value} for i, value in likely]}
                for token, log, likely in rows
            ]
            return {"content": content}
        by_id = self.ids and body.get("return_tokens_as_token_ids")

        def name(token: int) -> str:
            return f"token_id:{token}" if by_id else self.codec.text_of([token])

        return {
            "tokens": [name(token) for token, _, _ in rows],
            "token_logprobs": [log for _, log, _ in rows],
            "top_logprobs": [likely and {name(i): value for i, value in likely} for _, _, likely in rows],
        }
