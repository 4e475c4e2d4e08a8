"""Shows an error in one line, announced to screen readers, with a button to type a key if a key may help."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import html

from onceedit_ray.playground.api_client import RequestError
from onceedit_ray.playground.small_button import SmallButton
from onceedit_ray.playground.tagged_text import TaggedText


class ProblemView:
    """A line for an error, hidden while there is none.

    Args:
        html_id: id of the line. on_key: called when the visitor wants to type a key. helps: whether a key may help.
    """

    def __init__(
        self,
        html_id: str,
        on_key: Callable[[], None],
        helps: Callable[[RequestError], bool] = lambda error: error.is_about_keys,
    ) -> None:
        self.error: RequestError | None = None
        self._helps = helps
        with html.div(id=html_id, role="alert").classes("problem") as self._line:
            self._text = TaggedText("span")
            self._button = SmallButton("Type the key", on_key)
        self.show(None)

    def show(self, error: RequestError | None) -> None:
        """Show `error`, or nothing."""
        self.error = error
        self._text.set_text(str(error or ""))
        self._button.set_visibility(error is not None and self._helps(error))
        self._line.set_visibility(error is not None)
