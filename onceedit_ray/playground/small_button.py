"""A small outlined button with the colour of the style sheet, so that it is readable in dark mode too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import ui


class SmallButton(ui.button):
    """`on_click` is called when it is pressed; `classes` are CSS classes."""

    def __init__(self, text: str, on_click: Callable[[], Any], classes: str = "") -> None:
        super().__init__(text, on_click=on_click, color=None)
        self.props("dense no-caps outline").classes(f"small {classes}")
