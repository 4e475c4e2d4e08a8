"""The form in which a fact is corrected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import html, ui

from onceedit_ray.knowledge.dataset_records import lines_of
from onceedit_ray.playground.api_client import RequestError
from onceedit_ray.playground.edit_list import EditsOfServer
from onceedit_ray.playground.problem_view import ProblemView
from onceedit_ray.playground.tagged_text import Section, TaggedText

FIELD = "outlined dense stack-label"
REPHRASINGS = "Rephrasings, one a line"
ABOUT_REPHRASINGS = "They check the edit; nothing is trained on them."


class EditForm:
    """Sends edits to the server of `edits`; `on_key` is called when the visitor wants to type the key for editing."""

    def __init__(self, edits: EditsOfServer, on_key: Callable[[], None]) -> None:
        self._edits = edits
        with Section("add-title", "Correct a fact") as self._section, html.div().classes("card"):
            with html.form(id="add").classes("stack") as form:
                self._prompt = _field("Question or half sentence", "Who wrote Romeo and Juliet?", "edit-prompt", True)
                with html.div().classes("two"):
                    self._answer = _field("New answer", "Jane Austen", "edit-answer", True)
                    self._subject = _field("Subject (optional)", "Romeo and Juliet", "edit-subject", False)
                self._replaces = TaggedText("p", classes="replaces", id="will-replace", role="status")
                with html.details():
                    TaggedText("summary", "Other ways to ask it")
                    self._rephrasings = ui.textarea(REPHRASINGS).classes("wide")
                    self._rephrasings.props(f"{FIELD} for=edit-rephrasings aria-describedby=about-rephrasings")
                    TaggedText("p", ABOUT_REPHRASINGS, "hint", id="about-rephrasings")
                self._button = ui.button("Correct it in every model")
                self._button.props("no-caps unelevated type=submit id=add-button")
            form.on("submit.prevent", self._add, args=[])
            self._problem = ProblemView("add-problem", on_key)
        for field in (self._prompt, self._answer):
            field.on_value_change(self.show_replaced)
        self.show_replaced()

    def set_visibility(self, visible: bool) -> None:
        """Show the form or hide it."""
        self._section.set_visibility(visible)

    def show_replaced(self) -> None:
        """Show the answer that the edit in the form would replace."""
        prompt, answer = (self._prompt.value or "").strip(), (self._answer.value or "").strip()
        replaced = self._edits.replaced(prompt, answer) if prompt else None
        self._replaces.say(
            f"This question has the edited answer “{replaced}”; the new one takes its place." if replaced else ""
        )

    def forgive(self) -> None:
        """Hide an error about a key when another key is used."""
        if self._problem.error is not None and self._problem.error.is_about_keys:
            self._problem.show(None)

    async def _add(self) -> None:
        written = self._written()
        if not written["prompt"] or not written["target_new"]:
            self._problem.show(RequestError("an edit needs a question and a new answer; write both"))
            return
        self._problem.show(None)
        self._button.disable()
        try:
            await self._edits.add(written)
        except RequestError as error:
            self._problem.show(error)
        else:
            for field in (self._prompt, self._answer, self._subject, self._rephrasings):
                field.set_value("")
        finally:
            self._button.enable()

    def _written(self) -> dict[str, Any]:
        edit: dict[str, Any] = {
            "prompt": (self._prompt.value or "").strip(),
            "target_new": (self._answer.value or "").strip(),
        }
        if subject := (self._subject.value or "").strip():
            edit["subject"] = subject
        lines = (line.strip() for line in lines_of(self._rephrasings.value or ""))
        if rephrasings := [line for line in lines if line]:
            edit["rephrasings"] = rephrasings
        return edit


def _field(label: str, placeholder: str, html_id: str, required: bool) -> ui.input:
    field = ui.input(label, placeholder=placeholder).classes("wide")
    return field.props(f"{FIELD} autocomplete=off for={html_id}{' required' if required else ''}")
