"""What the form for a correction sends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from onceedit_ray.playground.edit_form import EditForm


def test_a_rephrasing_is_a_line_and_only_line_ends_end_one() -> None:
    fields = {"prompt": " Q? ", "answer": "A", "subject": "", "rephrasings": "a\u2028b\r\n\n c\x0cd \ne\x85f"}
    form: Any = SimpleNamespace(**{f"_{name}": SimpleNamespace(value=value) for name, value in fields.items()})
    assert EditForm._written(form) == {
        "prompt": "Q?",
        "target_new": "A",
        "rephrasings": ["a\u2028b", "c\x0cd", "e\x85f"],
    }
