"""The process of the page: the address that it serves, and who may use it."""

from __future__ import annotations

import asyncio
import contextlib

from nicegui import Client, app, ui
from nicegui.server import Server

from onceedit_ray.errors import ConfigError
from onceedit_ray.playground.api_client import ApiClient, RequestError
from onceedit_ray.playground.page import ICON, open_page
from onceedit_ray.playground.page_guard import PageGuard
from onceedit_ray.progress import Progress
from onceedit_ray.serving.keys import KEYS_VARIABLE, is_loopback
from onceedit_ray.serving.listening import free_port

TITLE = "OnceEdit playground"
KEYS_KEPT = 600.0
"""Seconds for which the keys of a browser tab are kept after the tab was closed."""
RECONNECT_SECONDS = 20.0
"""A tab that is disconnected for longer than this counts as closed, and its questions are stopped."""
GOODBYE_SECONDS = 2
"""How long the process waits for open tabs when it is told to end."""


def serve_page(url: str, host: str, port: int, progress: Progress = print) -> None:
    """Serve the page for the API at `url` until the process is interrupted or terminated.

    Raises `ConfigError` if an address is wrong or taken, or if other machines could use an API that has no keys
    through the page.
    """
    api = ApiClient(url)
    port = free_port(host, port)
    if not is_loopback(host):
        check_keys_are_asked_for(url, host)

    @ui.page("/", title=TITLE)
    def page(client: Client) -> None:
        open_page(client, api)

    app.add_middleware(PageGuard, local=is_loopback(host))
    app.storage.max_tab_storage_age = KEYS_KEPT
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    async def announce() -> None:
        while not Server.instance.started:  # it listens a moment after the application has started
            await asyncio.sleep(0.01)
        progress(f"the playground of {api.url} is at {address}; Ctrl-C ends it")

    app.on_startup(announce)
    with contextlib.suppress(KeyboardInterrupt):
        ui.run(
            host=host, port=port, favicon=ICON, dark=None, language="en-US", tailwind=False, show=False, reload=False,
            show_welcome_message=False, reconnect_timeout=RECONNECT_SECONDS,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
        )  # fmt: skip


def check_keys_are_asked_for(url: str, host: str) -> None:
    """Raise `ConfigError` if the API at `url` answers without a key: everybody who reaches `host` could use it."""
    try:
        asyncio.run(ApiClient(url).models(""))
    except RequestError as error:
        if error.is_about_keys:
            return
        raise ConfigError(f"whether {url} asks for keys cannot be seen: {error}") from None
    raise ConfigError(
        f"{url} asks for no key, so its page serves 127.0.0.1 alone, not {host}; start the server with {KEYS_VARIABLE}"
    )
