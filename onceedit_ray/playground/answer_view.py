"""Shows one model's two answers side by side, and the decision of the gate."""

from __future__ import annotations

from nicegui import html, ui

from onceedit_ray.playground.question import Comparison, ModelAnswer
from onceedit_ray.playground.tagged_text import TaggedText

STATES = "waiting writing done stopped"
VERDICTS = {"changed": "Edited", "same": "As before"}


class AnswerView:
    """A card for `row`; `show` brings it up to date. max_tokens: of each answer."""

    def __init__(self, row: Comparison, max_tokens: int) -> None:
        self._row = row
        self._max_tokens = max_tokens
        with html.article().classes("card comparison") as card:
            card.props["data-model"] = row.model
            with html.div().classes("line"):
                TaggedText("h3", row.model)
                self._verdict = TaggedText("span", classes="badge")
            with html.div().classes("pair"):
                self._before = self._side("before", "Before", "without edits")
                self._after = self._side("after", "After", "with every edit")
        self.show()

    def _side(self, name: str, title: str, about: str) -> _SideView:
        with html.section().classes(f"side {name}"):
            with html.h4(f"{title} "):
                TaggedText("small", about)
            return _SideView(self._max_tokens)

    def show(self) -> None:
        """Show the current text of the answers."""
        verdict = self._row.verdict
        self._verdict.say(VERDICTS[verdict] if verdict else "")
        self._verdict.become(*([verdict] if verdict else []), among="changed same")
        self._before.show(self._row.before)
        self._after.show(self._row.after)


class _SideView:
    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._text = TaggedText("p", classes="answer")
        self._cut = TaggedText("p", classes="cut")
        with html.div().classes("facts") as self._facts:
            with html.div().classes("line"):
                TaggedText("span", "Gate weight", "hint")
                self._bar = ui.linear_progress(0, size="8px", show_value=False).props('aria-label="Gate weight"')
                self._weight = TaggedText("output", classes="weight")
            self._gate = TaggedText("p", classes="gate")
            with html.p():
                TaggedText("span", "Version ", "hint")
                self._version = TaggedText("code", classes="version")

    def show(self, answer: ModelAnswer) -> None:
        self._text.set_text(answer.shown)
        self._text.become(answer.state, among=STATES)
        self._text.props(f"aria-busy={'true' if answer.busy else 'false'}")
        self._cut.say(f"Cut off: it has as many tokens as are allowed ({self._max_tokens})." if answer.cut else "")
        end = answer.end
        asked_gate = end is not None and end.weight is not None
        self._facts.set_visibility(asked_gate)
        if end is None or end.weight is None:
            return
        self._bar.set_value(end.weight)
        self._weight.set_text(f"{end.weight:.3f}")
        self._gate.set_text(answer.gate)
        self._gate.become("closed" if end.alone else "open", among="open closed")
        self._version.set_text(end.version)
