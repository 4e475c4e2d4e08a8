"""The playground in headless Chromium: the page's real process, the real ingress, and a small real decoder.

One page's process serves the whole session. Each test has an API of its own, at the address that the process knows.
Everything under this folder is skipped, with the reason, where Chromium is missing, unless ONCEEDIT_NEED_CHROMIUM says
that it must not be (CI). Pictures go to ONCEEDIT_ARTIFACTS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import pytest
from selenium.webdriver import Chrome

from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.listening import free_port
from tests.browser.api_server import Paced, Server, Serving, address_of
from tests.browser.edits_in_memory import EditsInMemory, add_edit_routes
from tests.browser.page import Page, browser_or_skip
from tests.browser.page_process import PageProcess, page_process
from tests.small_decoding import open_sessions
from tests.small_ingress import ingress_of
from tests.small_system import TaughtModels


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser_or_skip(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="session")
def api_port() -> int:
    """The port of every test's API."""
    return free_port("127.0.0.1", 0)


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


@pytest.fixture
def server(serving: Serving) -> Iterator[Server]:
    """A server without keys, over a gate that is open."""
    with serving() as started:
        yield started


@pytest.fixture
def page(browser: Chrome) -> Iterator[Page]:
    """The page, not yet opened; after the test nothing may have gone wrong in it."""
    opened = Page(browser)
    yield opened
    opened.close()
