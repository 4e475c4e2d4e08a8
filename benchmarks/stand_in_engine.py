"""A server of OpenAI's API that writes fixed words at a given rate, for benchmarks.

`python -m benchmarks.stand_in_engine PORT RATE DELAY`; RATE: tokens a second of each stream, 0 writes them all at once;
DELAY: seconds before the first one.

It uses as little processor time as a server in Python can, so that measurements through a gateway show the gateway's
cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import uvicorn

from onceedit_ray.serving.listening import free_port

MODEL = "stand-in"
WORD = " river"
HEAD = {"id": "stand-in", "created": 1, "model": MODEL}
START_SECONDS = 60.0


class StandInEngine:
    """The ASGI application. rate, delay: as above."""

    def __init__(self, rate: float, delay: float) -> None:
        self._pause = 1 / rate if rate else 0.0
        self._delay = delay

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            await _send_json(send, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            return
        content, more = b"", True
        while more:
            message = await receive()
            content += message.get("body", b"")
            more = message.get("more_body", False)
        body = json.loads(content)
        chat = "messages" in body
        count = int(body.get("max_tokens") or 16)
        if self._delay:
            await asyncio.sleep(self._delay)
        if not body.get("stream"):
            await asyncio.sleep(self._pause * count)
            told = {"message": {"role": "assistant", "content": WORD * count}} if chat else {"text": WORD * count}
            choice = {"index": 0, "finish_reason": "length", "logprobs": None, **told}
            usage = {"prompt_tokens": 8, "completion_tokens": count, "total_tokens": 8 + count}
            await _send_json(send, {**HEAD, "object": "chat.completion", "choices": [choice], "usage": usage})
            return
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
        await send(start)
        async for event in self._events(chat, count):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _events(self, chat: bool, count: int) -> AsyncIterator[bytes]:
        due = time.monotonic()
        for number in range(count):
            told = {"delta": {"content": WORD}} if chat else {"text": WORD}
            finish = "length" if number == count - 1 else None
            yield (
                b"data: "
                + json.dumps({**HEAD, "choices": [{"index": 0, **told, "finish_reason": finish}]}).encode()
                + b"\n\n"
            )
            due += self._pause
            if self._pause:
                await asyncio.sleep(max(due - time.monotonic(), 0))


async def _send_json(send: Any, value: Any) -> None:
    content = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content, "more_body": False})


def started(port: int, rate: float, delay: float) -> subprocess.Popen[bytes]:
    """Its process, which may not listen yet."""
    return subprocess.Popen([sys.executable, "-m", "benchmarks.stand_in_engine", str(port), str(rate), str(delay)])


@contextlib.contextmanager
def running(rate: float, delay: float = 0.0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its url and its process, while the block runs."""
    port = free_port("127.0.0.1", 0)
    process = started(port, rate, delay)
    try:
        until = time.monotonic() + START_SECONDS
        url = f"http://127.0.0.1:{port}/v1"
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                httpx2.get(f"{url}/models", trust_env=False)
                break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the stand-in did not start")
            time.sleep(0.05)
        yield url, process
    finally:
        process.kill()
        process.wait(30)


if __name__ == "__main__":
    uvicorn.run(StandInEngine(*map(float, sys.argv[2:4])), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
