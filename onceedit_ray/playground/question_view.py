"""The half of the page for questions: a form, and a card for each model that answers."""

from __future__ import annotations

import functools
from collections.abc import Callable

from nicegui import html, ui

from onceedit_ray.playground.answer_view import AnswerView
from onceedit_ray.playground.api_client import ApiClient, CompletionQuery, RequestError
from onceedit_ray.playground.problem_view import ProblemView
from onceedit_ray.playground.question import EVERY_MODEL, Comparison, Question
from onceedit_ray.playground.small_button import SmallButton
from onceedit_ray.playground.tab_keys import TabKeys
from onceedit_ray.playground.tagged_text import Section, TaggedText

FIELD = "outlined dense stack-label"
DEFAULT_TOKENS = 24
MOST_TOKENS = 1024
MOST_TRIES = 2
"""How many live edits are offered as questions."""
ENTER_SENDS = "(e) => { if (!e.shiftKey && !e.isComposing) { e.preventDefault(); e.target.form.requestSubmit(); } }"
ABOUT = (
    "Each model answers twice, side by side: as it came, and with the facts corrected here. The gate weight says how "
    "sure the plug-in is that the question is about an edit. Below its threshold the model answers alone, as before."
)


class QuestionView:
    """Asks through `api` with the visitor's `keys`; `on_key` is called when the visitor wants to type another key."""

    def __init__(self, api: ApiClient, keys: TabKeys, on_key: Callable[[], None]) -> None:
        self.question = Question(api, keys, self._show_rows, self._show_answer)
        self._cards: dict[str, AnswerView] = {}
        self._max_tokens = DEFAULT_TOKENS
        with Section("ask-title", "Ask every model, before and after", "asking"):
            with html.div().classes("card"):
                self._form()
            self._problem = ProblemView("ask-problem", on_key, lambda error: error.status == 401)
            self._spoken = TaggedText("p", classes="visually-hidden", role="status")
            with html.div(id="answers").classes("stack") as self._answers:
                with html.p("Asked: ").classes("asked hint"):
                    self._asked = TaggedText("q")
                self._rows = html.div().classes("stack")
            self._answers.set_visibility(False)
            self._about = TaggedText("p", ABOUT, "hint")

    def _form(self) -> None:
        with html.form(id="ask").classes("stack") as form:
            self._prompt = ui.textarea(
                "Question, or text to go on with", placeholder="What is the capital of Australia?"
            )
            self._prompt.props(f"{FIELD} autogrow required for=question aria-describedby=question-hint").classes("wide")
            self._prompt.on("keydown.enter", js_handler=ENTER_SENDS)
            TaggedText("p", "Enter asks, Shift+Enter begins a new line.", "hint", id="question-hint")
            with html.div().classes("settings"):
                self._model = ui.select({EVERY_MODEL: "All of them"}, label="Models", value=EVERY_MODEL)
                self._model.props(f"{FIELD} for=model options-dense")
                self._shape = ui.select(
                    {"chat": "a chat message", "text": "plain text"}, label="Asked as", value="chat"
                )
                self._shape.props(f"{FIELD} for=shape options-dense")
                self._tokens = ui.number(
                    "Tokens at most", value=DEFAULT_TOKENS, min=1, max=MOST_TOKENS, step=1, precision=0
                )
                self._tokens.props(f"{FIELD} required for=tokens")
                self._ask_button = ui.button("Ask").props("no-caps unelevated type=submit id=ask-button")
                self._stop_button = ui.button("Stop", on_click=self._stop, color=None).props(
                    "no-caps outline id=stop-button"
                )
            with html.div(id="tries").classes("tries hint") as self._tries:
                TaggedText("span", "Corrected here:")
                self._offers = html.div().classes("tries")
        form.on("submit.prevent", self._ask, args=[])
        self._tries.set_visibility(False)
        self._show_busy()

    async def load(self) -> None:
        """Read the list of models."""
        try:
            await self.question.read_models()
        except RequestError as error:
            self._problem.show(error)
            return
        self._problem.show(None)
        self._show_models()

    def offer(self, prompts: list[str]) -> None:
        """Offer the prompts of live edits as questions; the newest comes first."""
        offered = list(dict.fromkeys(prompts))[:MOST_TRIES]
        self._tries.set_visibility(bool(offered))
        if [button.text for button in self._offers.default_slot.children if isinstance(button, SmallButton)] == offered:
            return
        self._offers.clear()
        with self._offers:
            for prompt in offered:
                SmallButton(prompt, functools.partial(self.put, prompt))

    async def put(self, prompt: str) -> None:
        """Ask `prompt`, as if the visitor had typed it."""
        self._prompt.set_value(prompt)
        ui.run_javascript('document.getElementById("ask").scrollIntoView({block: "start"})')
        await self._ask()

    async def _ask(self) -> None:
        prompt = self._prompt.value or ""
        if not prompt.strip():
            return
        self._max_tokens = int(self._tokens.value or DEFAULT_TOKENS)
        query = CompletionQuery(prompt, str(self._model.value), self._shape.value == "chat", self._max_tokens)
        self._problem.show(None)
        self._asked.set_text(prompt)
        self._spoken.set_text("Asked; the answers are being written.")
        asking = self.question.ask(query)
        self._ask_button.set_visibility(False)
        self._stop_button.set_visibility(True)
        try:
            if await asking:
                self._spoken.set_text(self.question.summary)
        except RequestError as error:
            self._problem.show(error)
            self._spoken.set_text("")
        self._show_busy()

    def _stop(self) -> None:
        self.question.stop()
        self._spoken.set_text("Stopped.")
        self._show_busy()

    def _show_busy(self) -> None:
        self._ask_button.set_visibility(not self.question.busy)
        self._stop_button.set_visibility(self.question.busy)

    def _show_rows(self) -> None:
        self._rows.clear()
        with self._rows:
            self._cards = {row.model: AnswerView(row, self._max_tokens) for row in self.question.rows}
        self._answers.set_visibility(bool(self._cards))
        self._about.set_visibility(not self._cards)
        self._show_models()

    def _show_models(self) -> None:
        options = {EVERY_MODEL: "All of them"} | {name: name for name in self.question.models}
        self._model.set_options(options, value=self._model.value if self._model.value in options else EVERY_MODEL)

    def _show_answer(self, row: Comparison) -> None:
        if any(row is shown for shown in self.question.rows):
            self._cards[row.model].show()
