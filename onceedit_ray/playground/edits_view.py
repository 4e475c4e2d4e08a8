"""The half of the page that edits: the form, the edits and the versions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import html

from onceedit_ray.playground.api_client import ApiClient
from onceedit_ray.playground.edit_form import EditForm
from onceedit_ray.playground.edit_list import EditsOfServer
from onceedit_ray.playground.list_view import EditItem, ListView, VersionItem
from onceedit_ray.playground.listed import ListedEdit, ListedVersion
from onceedit_ray.playground.problem_view import ProblemView
from onceedit_ray.playground.small_button import SmallButton
from onceedit_ray.playground.tab_keys import TabKeys
from onceedit_ray.playground.tagged_text import Section, TaggedText

NO_EDITS = "This server answers, but takes no edits."


class EditsView:
    """Shows and changes the edits of the server of `api`.

    Args:
        api: the client of the server. keys: the visitor's keys. on_key: called when the visitor wants to type the key
            for editing. ask: asks the models a prompt. offer: called with the prompts of the live edits.
    """

    def __init__(
        self,
        api: ApiClient,
        keys: TabKeys,
        on_key: Callable[[], None],
        ask: Callable[[str], Awaitable[None]],
        offer: Callable[[list[str]], None],
    ) -> None:
        self.edits = EditsOfServer(api, keys, self._show, self._announce)
        self._ask = ask
        self._offer = offer
        with html.div().classes("editing"):
            self._news = TaggedText("p", classes="visually-hidden", id="news", role="status")
            self._no_edits = TaggedText("p", NO_EDITS, "card", id="no-edits")
            self._form = EditForm(self.edits, on_key)
            self._problem = ProblemView("list-problem", on_key)
            with html.div() as self._lists:
                with Section("edits-title", "Edits"):
                    self._edit_list: ListView[ListedEdit] = ListView("edits", "None yet.", self._edit_item)
                    self._older = SmallButton("Older edits", self.edits.older)
                    self._older.props("id=older")
                with Section("versions-title", "Versions"):
                    self._version_list: ListView[ListedVersion] = ListView("versions", "None yet.", self._version_item)
        self._show()

    async def load(self) -> None:
        """Read everything again, for example after the key has changed."""
        self._form.forgive()
        await self.edits.load()

    def _edit_item(self, edit: ListedEdit) -> EditItem:
        return EditItem(edit, self.edits, lambda shown: self._ask(shown.prompt), self.edits.remove)

    def _version_item(self, version: ListedVersion) -> VersionItem:
        return VersionItem(version, self.edits, self.edits.activate)

    def _show(self) -> None:
        self._no_edits.set_visibility(not self.edits.offered)
        self._form.set_visibility(self.edits.offered)
        self._form.show_replaced()
        self._problem.show(self.edits.trouble)
        self._lists.set_visibility(self.edits.loaded)
        self._edit_list.show(self.edits.kept)
        self._older.set_visibility(self.edits.more)
        self._version_list.show(self.edits.versions)
        self._offer([edit.prompt for edit in self.edits.live])

    def _announce(self, news: str) -> None:
        self._news.set_text(news)
