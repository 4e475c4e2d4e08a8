"""The dialog in which keys are typed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import html, ui

from onceedit_ray.playground.tab_keys import Purpose, TabKeys
from onceedit_ray.playground.tagged_text import TaggedText

ABOUT = (
    "Only where the server asks for them. The page's own process keeps them for this tab, passes them to the API and "
    "forgets them soon after the tab is closed."
)


class KeysView:
    """A form for the keys of `keys`; `on_keep` is called when they have changed."""

    def __init__(self, keys: TabKeys, on_keep: Callable[[], Awaitable[None]]) -> None:
        self._keys = keys
        self._on_keep = on_keep
        self._wanted: Purpose = "asking"
        with ui.dialog() as self._dialog, ui.card().classes("keys"):
            TaggedText("h2", "Keys", id="keys-title")
            TaggedText("p", ABOUT, "hint")
            with html.form().classes("stack") as form:
                self._inputs: dict[Purpose, ui.input] = {
                    "asking": _key_input("Key for asking", "key-asking"),
                    "editing": _key_input("Key for editing", "key-editing"),
                }
                with html.div().classes("buttons"):
                    forget = ui.button("Forget both", on_click=self._forget, color=None).props(
                        "flat no-caps id=forget-keys"
                    )
                    forget.classes("first")
                    ui.button("Cancel", on_click=self._dialog.close, color=None).props("flat no-caps")
                    ui.button("Use").props("no-caps unelevated type=submit id=keep-keys")
            form.on("submit.prevent", self._keep, args=[])
        self._dialog.props("aria-labelledby=keys-title id=keys")
        self._dialog.on("show", self._focus, args=[])

    def open(self, wanted: Purpose = "asking", refused: bool = False) -> None:
        """Show the dialog with the cursor in the field for `wanted`; refused: the current key was not accepted."""
        self._wanted = wanted
        for purpose, typed in self._inputs.items():
            typed.set_value(getattr(self._keys, purpose))
            wrong = refused and purpose == wanted
            typed.props(add="error" if wrong else None, remove=None if wrong else "error")
        self._dialog.open()

    def _focus(self) -> None:
        ui.run_javascript(f'document.getElementById("key-{self._wanted}").focus()')

    async def _keep(self) -> None:
        self._keys.keep(self._inputs["asking"].value or "", self._inputs["editing"].value or "")
        self._dialog.close()
        await self._on_keep()

    async def _forget(self) -> None:
        for typed in self._inputs.values():
            typed.set_value("")
        await self._keep()


def _key_input(label: str, html_id: str) -> ui.input:
    typed = ui.input(label, password=True).classes("wide")
    return typed.props(f"outlined dense stack-label hide-bottom-space autocomplete=off spellcheck=false for={html_id}")
