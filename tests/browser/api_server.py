"""The API that the page speaks to: the real ingress over a small system, served from a thread of the test."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

import uvicorn
from fastapi import FastAPI

from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from onceedit_ray.serving.in_process import InProcess
from onceedit_ray.serving.logprobs import Piece
from tests.browser.edits_in_memory import EditsInMemory
from tests.small_ingress import small_backend
from tests.small_system import TaughtModels

ASKING_KEY, EDITING_KEY = "a-key-for-asking", "a-key-for-editing"


class Paced(InProcess):
    """The small system; while `held`, every answer stops after its first piece.

    asked: the requests so far. under_way: number of answers that are being written.
    """

    held = False
    under_way = 0
    asked: list[GenerationRequest]

    @classmethod
    def over(cls, models: TaughtModels, weight: float) -> Paced:
        paced = cls.__new__(cls)
        paced.__dict__.update(small_backend(models, weight).__dict__)
        paced.asked = []
        return paced

    async def speak(self, asked: GenerationRequest) -> AsyncGenerator[Piece | GenerationEnd]:
        self.asked.append(asked)
        self.under_way += 1
        try:
            async with contextlib.aclosing(super().speak(asked)) as pieces:
                async for piece in pieces:
                    yield piece
                    while self.held:
                        await asyncio.sleep(0.01)
        finally:
            self.under_way -= 1


@dataclasses.dataclass
class Server:
    """An API's address, the system behind it, and its page's address."""

    url: str
    page: str
    backend: Paced
    edits: EditsInMemory


Serving = Callable[..., contextlib.AbstractContextManager[Server]]


@contextlib.contextmanager
def address_of(api: FastAPI, port: int) -> Iterator[str]:
    """The address of an application, served from a thread."""
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(api, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
