"""The lists of edits and versions. An item is created once and then updated in place, so that it keeps the focus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from nicegui import html, ui
from nicegui.element import Element

from onceedit_ray.playground.edit_list import EditsOfServer
from onceedit_ray.playground.listed import STEPS, ListedEdit, ListedVersion
from onceedit_ray.playground.small_button import SmallButton
from onceedit_ray.playground.tagged_text import TaggedText

STATUSES = "queued training evaluating live refused deleting deleted"
PLACES = "past here"


class _Named(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_Named)
Shown = TypeVar("Shown", contravariant=True)
Act = Callable[[Any], Awaitable[None]]


class ItemView(Protocol[Shown]):
    """The view of one item of a list."""

    root: Element

    def show(self, item: Shown) -> None:
        """Bring what is shown up to date."""


class ListView(Generic[Item]):
    """A list whose items keep their place on the page. make: creates the view of an item."""

    def __init__(self, html_id: str, empty: str, make: Callable[[Item], ItemView[Item]]) -> None:
        self._make = make
        self._views: dict[str, ItemView[Item]] = {}
        self._empty = TaggedText("p", empty, "hint")
        self._list = html.ul(id=html_id).classes("list")

    def show(self, items: Sequence[Item]) -> None:
        """Show `items` in their order."""
        for name in self._views.keys() - {item.id for item in items}:
            self._views.pop(name).root.delete()
        for place, item in enumerate(items):
            if item.id not in self._views:
                with self._list:
                    self._views[item.id] = self._make(item)
            view = self._views[item.id]
            if self._list.default_slot.children[place] is not view.root:
                view.root.move(target_index=place)
            view.show(item)
        self._empty.set_visibility(not items)
        self._list.set_visibility(bool(items))


class EditItem:
    """An edit with its buttons. ask: asks the models its question. remove: deletes it."""

    def __init__(self, edit: ListedEdit, edits: EditsOfServer, ask: Act, remove: Act) -> None:
        self._edits = edits
        self._remove = remove
        self._edit = edit
        self._shown: tuple[ListedEdit, list[str]] | None = None
        with html.li().classes("edit") as self.root:
            self.root.props["data-id"] = edit.id
            with html.div().classes("line"):
                with html.p():
                    TaggedText("span", edit.prompt, "fact")
                    TaggedText("span", " → ", aria_hidden="true")
                    TaggedText("strong", edit.target_new, "new")
                self._status = TaggedText("span", classes="badge status")
            self._replaces = TaggedText("p", classes="replaces")
            with html.ol().classes("steps") as self._steps:
                self._step = {step: TaggedText("li", step) for step in STEPS}
            with html.div().classes("line progress") as self._progress:
                self._bar = ui.linear_progress(0, size="8px", show_value=False)
                self._percent = TaggedText("small")
            with html.p().classes("reason") as self._refusal:
                TaggedText("strong", "Refused: ")
                self._reason = TaggedText("span")
            with html.div().classes("buttons") as self._actions:
                self._since = TaggedText("small", classes="since hint first")
                self._ask = SmallButton("Ask it", lambda: ask(self._edit), "ask-this")
                self._ask.props["aria-label"] = f"Ask: {edit.prompt}"
                self._delete = SmallButton("Delete", lambda: self._confirm(True), "delete")
                self._delete.props["aria-label"] = f"Delete: {edit.prompt}"
            with html.div().classes("buttons") as self._question:
                TaggedText("span", "Forget it in every model?", "first")
                SmallButton("Yes, delete", self._confirmed, "confirm")
                self._keep = SmallButton("Keep", lambda: self._confirm(False), "keep")
        self._question.set_visibility(False)

    def show(self, item: ListedEdit) -> None:
        """Bring what is shown up to date."""
        replaced = self._edits.replaced_by(item)
        if self._shown == (item, replaced):
            return
        self._shown = (item, replaced)
        self._edit = item
        self._status.set_text(item.status)
        self._status.become(item.status, among=STATUSES)
        self._replaces.say(f"Takes the place of {' and '.join(replaced)}." if replaced else "")
        self._steps.set_visibility(item.under_way and item.status in STEPS)
        for step, text in self._step.items():
            place = item.place_of(step)
            text.become(place, among=PLACES)
            text.props(
                add="aria-current=step" if place == "here" else None, remove=None if place == "here" else "aria-current"
            )
        self._progress.set_visibility(item.under_way)
        self._bar.set_value(item.progress)
        self._bar.props["aria-label"] = f"Progress: {item.status}"
        self._percent.set_text(f"{round(100 * item.progress)} %")
        self._refusal.set_visibility(item.status == "refused")
        self._reason.set_text(item.reason or "")
        live = item.status == "live"
        self._since.say(f"since {item.version}" if live and item.version else "")
        self._ask.set_visibility(live)
        self._delete.set_visibility(item.deletable)
        if not item.deletable:
            self._question.set_visibility(False)
            self._actions.set_visibility(True)

    def _confirm(self, asked: bool) -> None:
        self._question.set_visibility(asked)
        self._actions.set_visibility(not asked)
        focused = self._keep if asked else self._delete
        ui.run_javascript(f"getHtmlElement({focused.id}).focus()")

    async def _confirmed(self) -> None:
        self._question.set_visibility(False)
        self._actions.set_visibility(True)
        await self._remove(self._edit)


class VersionItem:
    """A version and its report. activate: makes it the active version."""

    def __init__(self, version: ListedVersion, edits: EditsOfServer, activate: Act) -> None:
        self._edits = edits
        self._version = version
        with html.li().classes("version-item") as self.root:
            self.root.props["data-id"] = version.id
            with html.div().classes("line"):
                with html.p():
                    TaggedText("code", version.id)
                    TaggedText("small", version.about, "hint about")
                self._live = TaggedText("span", "live", "badge live")
                self._activate = SmallButton("", lambda: activate(self._version), "activate")
            if version.report:
                with html.details():
                    TaggedText("summary", "Report of its gate")
                    with html.table(), html.tbody():
                        for name, value in version.figures:
                            with html.tr():
                                TaggedText("th", name, scope="row")
                                TaggedText("td", value)

    def show(self, item: ListedVersion) -> None:
        """Bring what is shown up to date."""
        self._version = item
        self.root.classes(add="active" if item.active else None, remove=None if item.active else "active")
        self._live.set_visibility(item.active)
        self._activate.set_visibility(not item.active)
        word = item.activation(self._edits.active)
        self._activate.set_text(word)
        self._activate.props(f'aria-label="{word} to {item.id}"')
