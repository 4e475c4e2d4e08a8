"""A stand-in for a server of OpenAI's API, which writes scripted text word by word, and its faults.

Its chat template: `<user>…</user><assistant>`, a closed reply `<assistant>…</assistant>`. A tag or a word is a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

MODEL = "org/stand-in-7b"
_WORDS = re.compile(r"</?(?:user|assistant|system)>|\s*[^\s<]+\s*$|\s*[^\s<]+")


def tokens_of(text: str) -> list[str]:
    return _WORDS.findall(text)


@dataclass
class StandIn:
    """goes_on: the whole text so far → the rest of it. continues: how it continues a reply. count: the number of
    tokens of a prompt. key: the one that it asks
    for. fault: called with the number of the request; a response in place of the answer. breaks: words after which a
    stream breaks off. pause: seconds before each word.

    asked: the bodies of the requests for answers. closed: how many streams the client closed before their end.
    """

    goes_on: Callable[[str], str]
    continues: Literal["flags", "prefill", "no"] = "flags"
    completions: bool = True
    key: str = ""
    count: Callable[[str], int] = lambda text: len(tokens_of(text))
    models: list[str] = field(default_factory=lambda: [MODEL])
    fault: Callable[[int], Response | None] = lambda number: None
    breaks: int | None = None
    pause: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    requests: int = 0
    closed: int = 0

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/chat/completions", self._answer, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
        ]
        if self.completions:
            routes.append(Route("/v1/completions", self._answer, methods=["POST"]))
        return Starlette(routes=routes)

    def _refused(self, request: Request) -> Response | None:
        self.requests += 1
        if (fault := self.fault(self.requests)) is not None:
            return fault
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}, 401)
        return None

    async def _models(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _tokenize(self, request: Request) -> Response:
        return JSONResponse({"tokens": [1]})

    async def _answer(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        body = await request.json()
        if body["model"] not in self.models:
            return JSONResponse({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
        self.asked.append(body)
        chat = "messages" in body
        if not chat and not isinstance(body["prompt"], str):
            return JSONResponse({"error": {"message": "prompt must be a string"}}, 400)
        text = self._rendered(body) if chat else body["prompt"]
        words = tokens_of(self.goes_on(text))
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 100
        finish = "length" if len(words) > limit else "stop"
        usage = {"prompt_tokens": self.count(text), "completion_tokens": len(words[:limit])}
        usage["total_tokens"] = sum(usage.values())
        if body.get("stream"):
            stream = self._stream(body, words[:limit], finish, usage)
            return StreamingResponse(stream, media_type="text/event-stream")
        told = "".join(words[:limit])
        choice = {"index": 0, "finish_reason": finish, "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": told}} if chat else {"text": told}
        kind = "chat.completion" if chat else "text_completion"
        return JSONResponse({**_head(kind), "choices": [choice], "usage": usage, "stand_in": body.get("extra")})

    def _rendered(self, body: dict[str, Any]) -> str:
        messages = body["messages"]
        flagged = body.get("continue_final_message") and not body.get("add_generation_prompt", True)
        last = messages[-1]["role"] == "assistant"
        open_ended = last and (self.continues == "prefill" or (self.continues == "flags" and flagged))
        text = "".join(f"<{each['role']}>{_plain(each['content'])}</{each['role']}>" for each in messages)
        return text.removesuffix("</assistant>") if open_ended else text + "<assistant>"

    async def _stream(
        self, body: dict[str, Any], words: list[str], finish: str, usage: dict[str, int]
    ) -> AsyncIterator[bytes]:
        chat = "messages" in body
        head = _head("chat.completion.chunk" if chat else "text_completion")
        ended = False
        try:
            if chat:
                yield _event({**head, "choices": [_choice({"delta": {"role": "assistant", "content": ""}})]})
            for number, word in enumerate(words):
                if number == self.breaks:
                    raise ConnectionResetError("the stand-in breaks off")
                await asyncio.sleep(self.pause)
                told = {"delta": {"content": word}} if chat else {"text": word}
                logprobs = {"content": [{"token": word, "logprob": -0.5}]} if body.get("logprobs") else None
                yield _event({**head, "choices": [{**_choice(told), "logprobs": logprobs}]})
            yield _event(
                {**head, "choices": [{**_choice({"delta": {}} if chat else {"text": ""}), "finish_reason": finish}]}
            )
            if (body.get("stream_options") or {}).get("include_usage"):
                yield _event({**head, "choices": [], "usage": usage})
            yield b"data: [DONE]\n\n"
            ended = True
        finally:
            self.closed += not ended


def _head(kind: str) -> dict[str, Any]:
    return {"id": "stand-in-1", "object": kind, "created": 1, "model": MODEL, "system_fingerprint": "fp-1"}


def _choice(told: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, **told, "finish_reason": None}


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


@contextlib.contextmanager
def running(stand_in: StandIn, port: int = 0) -> Iterator[str]:
    """The url of the stand-in, in a thread of its own, while the block runs."""
    with serving(stand_in.app(), port) as url:
        yield url


@contextlib.contextmanager
def serving(app: Starlette, port: int = 0) -> Iterator[str]:
    """The url of an application of OpenAI's API, in a thread of its own, while the block runs."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the stand-in did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
