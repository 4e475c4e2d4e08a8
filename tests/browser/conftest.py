"""The playground in headless Chromium: the page's real process, the real ingress, and a small real decoder.

One page's process serves the whole session. Each test has an API of its own, at the address that the process knows.
Everything under this folder is skipped, with the reason, where Chromium is missing, unless ONCEEDIT_NEED_CHROMIUM says
that it must not be (CI). Pictures go to ONCEEDIT_ARTIFACTS.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from selenium.webdriver import Chrome

from onceedit_ray.serving.backend import InProcess
from onceedit_ray.serving.generation import GenerationEnd, GenerationRequest
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.logprobs import Piece
from scripts.chromium import chromium, missing
from tests.browser.edits_in_memory import EditsInMemory, add_edit_routes
from tests.browser.page import Page
from tests.browser.page_process import PageProcess, page_process
from tests.paths import ROOT
from tests.small_decoding import models, open_sessions
from tests.small_ingress import ingress_of, small_backend
from tests.small_system import TaughtModels

__all__ = ["models"]  # a fixture

ASKING_KEY, EDITING_KEY = "a-key-for-asking", "a-key-for-editing"


class Paced(InProcess):
    """The small system; while `held`, every answer stops after its first piece.

    asked: the requests that came. under_way: how many answers are being written.
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
    """An API's address, what stands behind it, and its page's address."""

    url: str
    page: str
    backend: Paced
    edits: EditsInMemory


Serving = Callable[..., contextlib.AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if absent := missing():
        reason = f"{' and '.join(absent)} not found: the page is not tested; scripts/chromium.sh installs them"
        if os.environ.get("ONCEEDIT_NEED_CHROMIUM"):
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def artifacts() -> Path:
    return Path(os.environ.get("ONCEEDIT_ARTIFACTS") or ROOT / "build" / "artifacts") / "playground"


@pytest.fixture(scope="session")
def api_port() -> int:
    """The port of every test's API."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def shared_process(api_port: int) -> Iterator[PageProcess]:
    with page_process(f"http://127.0.0.1:{api_port}/v1") as started:
        yield started


@pytest.fixture
def playground(shared_process: PageProcess) -> Iterator[PageProcess]:
    """The page's process; a test during which it prints anything, such as a traceback, fails."""
    shared_process.printed.clear()
    yield shared_process
    assert shared_process.printed == []


@pytest.fixture
def serving(models: TaughtModels, playground: PageProcess, api_port: int) -> Serving:
    """Starts servers: the real ingress, and the editing API's contract in memory before its routes."""

    @contextlib.contextmanager
    def start(weight: float = 0.6, keys: Sequence[str] = (), with_edits: bool = True) -> Iterator[Server]:
        backend, edits = Paced.over(models, weight), EditsInMemory(Keys(keys[1:]))
        api = ingress_of(backend, keys[:1], keys[1:])
        if with_edits:
            add_edit_routes(api, edits)
        with address_of(api, api_port) as url:
            yield Server(url, playground.url, backend, edits)
        assert open_sessions(models) == 0

    return start


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


@pytest.fixture
def server(serving: Serving) -> Iterator[Server]:
    """One without keys, over a gate that is open."""
    with serving() as started:
        yield started


@pytest.fixture
def page(browser: Chrome, artifacts: Path) -> Iterator[Page]:
    """The page, not yet opened; after the test nothing may have gone wrong in it."""
    opened = Page(browser, artifacts)
    yield opened
    opened.close()
