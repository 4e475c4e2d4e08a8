"""The texts that a reader gets."""

from __future__ import annotations

import pytest

from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.system import index_of
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.prompt import Exchange
from onceedit_ray.reader.view import as_read, asked, read_along

EDIT = Edit(prompt="The Eiffel Tower is in the city of", target_new="Rome", subject="Eiffel Tower")
LINE = "Fact: The Eiffel Tower is in the city of Rome"


@pytest.mark.parametrize(
    ("request_", "read"),
    [
        ("IN WHICH CITY IS THE EIFFEL TOWER", "in which city is the eiffel tower"),
        ("Where is NATO?", "Where is NATO?"),
        ("NATO?", "NATO?"),
        ("法国的首都是 哪里？", "法国的首都是 哪里？"),
    ],
)
def test_a_request_in_capitals_is_read_in_lower_case(request_: str, read: str) -> None:
    assert as_read(request_) == read


def test_the_plugins_views_hold_the_request_as_it_is_read() -> None:
    plugin = Plugin(None, None, "short", facts=index_of([EDIT]))  # type: ignore[arg-type]
    (view,) = plugin.views("IN WHICH CITY IS THE EIFFEL TOWER")
    assert view.text == f"{LINE}\nQuestion: in which city is the eiffel tower\nAnswer:"


def test_the_two_endings() -> None:
    turns = (Exchange("Hello", "Hi"),)
    before = f"{LINE}\nQuestion: Hello\nReply: Hi\nQuestion: Where?"
    assert asked([LINE], "Where?", turns) == f"{before}\nAnswer:"
    assert read_along([LINE], "Where?", turns) == f"{before}\nReply:"
    assert read_along([LINE], " ") == f"{LINE}\nText:"
