"""The page: its two halves, the keys, and what happens when it is opened and closed."""

from __future__ import annotations

from pathlib import Path

from nicegui import Client, app, html, ui

from onceedit_ray.playground.api_client import ApiClient
from onceedit_ray.playground.edits_view import EditsView
from onceedit_ray.playground.keys_view import KeysView
from onceedit_ray.playground.question_view import QuestionView
from onceedit_ray.playground.small_button import SmallButton
from onceedit_ray.playground.tab_keys import Purpose, TabKeys
from onceedit_ray.playground.tagged_text import TaggedText

FOLDER = Path(__file__).parent
ICON = FOLDER / "icon.svg"
STYLE = FOLDER / "style.css"
ACCENT = "#4f46e5"
EACH_SECONDS = 1.0
"""Seconds between two updates of the edits in progress."""


def open_page(client: Client, api: ApiClient) -> None:
    """Build the page for one visitor; it is filled from the API once the browser has connected."""
    ui.add_css(STYLE)
    ui.colors(primary=ACCENT)
    page = Playground(api)
    client.on_connect(lambda: page.keys.open(app.storage.tab))
    client.on_delete(page.question.question.stop)
    ui.timer(EACH_SECONDS, page.look)


class Playground:
    """The page of one visitor."""

    def __init__(self, api: ApiClient) -> None:
        self.keys = TabKeys()
        self._filled = False
        self._dialog = KeysView(self.keys, self.load)
        with html.div().classes("top"):
            html.img(src="/favicon.ico", alt="", width=40, height=40)
            with html.div().classes("first"):
                TaggedText("h1", "OnceEdit")
                TaggedText("p", "Correct a fact once. Every model answers with it.", "hint")
            SmallButton("Keys", lambda: self._dialog.open()).props("id=open-keys")
        with html.div().classes("halves"):
            self.question = QuestionView(api, self.keys, lambda: self._ask_for("asking"))
            self.edits = EditsView(
                api, self.keys, lambda: self._ask_for("editing"), self.question.put, self.question.offer
            )

    async def look(self) -> None:
        """Fill the page at the first call; update the edits in progress at every later call."""
        if self._filled:
            await self.edits.edits.look()
        else:
            self._filled = True
            await self.load()

    async def load(self) -> None:
        """Read the models, the edits and the versions, for example after the key has changed."""
        await self.question.load()
        await self.edits.load()

    def _ask_for(self, purpose: Purpose) -> None:
        self._dialog.open(purpose, refused=True)
