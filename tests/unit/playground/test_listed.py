"""The texts that the page shows for an edit and for a version."""

from __future__ import annotations

import pytest

from onceedit_ray.living.edit_views import EditView, VersionView
from onceedit_ray.playground.api_client import ApiClient
from onceedit_ray.playground.edit_list import EditsOfServer
from onceedit_ray.playground.listed import STEPS, ListedEdit, ListedVersion, same_prompt
from onceedit_ray.playground.tab_keys import TabKeys

EDIT = ListedEdit(id="e1", batch="b1", prompt="Who?", target_new="Perth", status="live")


def test_it_reads_what_the_server_lists() -> None:
    assert set(ListedEdit.model_fields) <= set(EditView.model_fields)
    assert set(ListedVersion.model_fields) <= set(VersionView.model_fields)


@pytest.mark.parametrize(
    ("status", "places"),
    [
        ("queued", ["here", "", "", ""]),
        ("evaluating", ["past", "past", "here", ""]),
        ("live", ["past", "past", "past", "here"]),
        ("deleting", ["", "", "", ""]),
    ],
)
def test_the_steps_of_an_edit(status: str, places: list[str]) -> None:
    edit = EDIT.model_copy(update={"status": status})
    assert [edit.place_of(step) for step in STEPS] == places
    assert edit.under_way == (status != "live")
    assert edit.deletable == (status != "deleting")


def test_the_figures_of_a_report() -> None:
    report = {"kept": 1.0, "locality": {"near": 0.98765, "general_text": None}, "bounds": [True, 3]}
    version = ListedVersion(id="v", created=0, active=False, edits=1, report=report)
    assert version.figures == [
        ("kept", "1"),
        ("locality · near", "0.988"),
        ("locality · general text", "–"),
        ("bounds · 1", "yes"),
        ("bounds · 2", "3"),
    ]
    assert version.about.startswith("1 edit · ")


def test_going_back_is_called_rolling_back() -> None:
    old, new = (ListedVersion(id=str(made), created=made, active=False, edits=2) for made in (1, 2))
    assert old.activation(new) == "Roll back"
    assert new.activation(old) == new.activation(None) == "Activate"


def test_prompts_are_compared_as_the_server_compares_them() -> None:
    assert same_prompt("Who  is\nit?", " Who is it? ")
    assert same_prompt("Cafe\u0301?", "Caf\u00e9?")
    assert not same_prompt("What does US mean?", "What does us mean?")


def test_whose_place_an_edit_takes() -> None:
    edits = EditsOfServer(ApiClient("http://127.0.0.1/v1"), TabKeys(), lambda: None, lambda news: None)
    gone = EDIT.model_copy(update={"id": "e0", "status": "deleted", "target_new": "Hobart"})
    edits.edits = [EDIT, gone]
    assert edits.replaced(" Who? ", "Sydney") == "Perth"
    assert edits.replaced("Who?", "Perth") is None and edits.replaced("Where?", "Sydney") is None
    new = EDIT.model_copy(update={"id": "e2", "target_new": "Sydney", "status": "queued"})
    assert edits.replaced_by(new) == ["“Perth”"], "nothing is noted yet, so it is found by its prompt"
    assert edits.replaced_by(EDIT) == []
    assert edits.replaced_by(new.model_copy(update={"status": "live", "replaces": ("e0", "e9")})) == ["“Hobart”", "e9"]
