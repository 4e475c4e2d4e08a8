"""The benchmarks of live edits: which edits they take, what counts as right, and what their tables show."""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import live_edit, many_facts
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.readers import read_edits
from tests.paths import ROOT

once = functools.cache(read_edits)


def test_edits_that_are_made_are_about_other_subjects_than_those_that_are_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    for module in (live_edit, many_facts):  # the files are large, and each is asked for several times
        monkeypatch.setattr(module, "read_edits", once)
    live, fresh = live_edit.edits_of(live_edit.FILES[1:], 8)
    assert len(fresh) == 8 and len(live) > 10_000
    assert not {edit.subject for edit in fresh} & {edit.subject for edit in live}
    assert all(len(edit.target_new) <= live_edit.SHORT and not edit.rephrasings for edit in fresh)
    assert live_edit.edits_of(live_edit.FILES[1:], 8)[1] == fresh, "the same on every machine"
    filler, asked = many_facts.asked_edits(3)
    assert [edit.prompt for edit in asked] == [edit.prompt for edit in live_edit.edits_of(live_edit.FILES, 3)[1]]
    assert all(edit.rephrasings for edit in asked) and len(filler) > live_edit.MANY + live_edit.AT_ONCE


def test_an_answer_is_right_that_begins_with_the_edits() -> None:
    edit = Edit(prompt="Q?", target_new="Marie Curie")
    assert live_edit.is_right("\n marie  Curie, of course", edit)
    assert not live_edit.is_right("It is Marie Curie", edit) and not live_edit.is_right("", edit)


def test_a_process_that_ends_meanwhile_is_not_counted() -> None:
    assert live_edit.spent({1: 2.0, 2: 90.0}, {1: 2.5, 3: 7.0}) == 0.5


def test_the_benchmarks_home_has_models_and_no_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("models", "knowledge"):
        (tmp_path / name).mkdir()
    (tmp_path / "edits.json").write_text("{}")
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path))
    with live_edit.empty_home() as home:
        assert os.environ["ONCEEDIT_HOME"] == str(home) and [path.name for path in home.iterdir()] == ["models"]
    assert os.environ["ONCEEDIT_HOME"] == str(tmp_path) and (tmp_path / "models").is_dir()


class Scripted(FusedDecoder):
    """Answers without models: alone, unless the prompt is `opened`; the gate likewise."""

    def __init__(self) -> None:
        self.members = {"one": None}  # type: ignore[dict-item]

    async def gate(self, prompt: Any) -> float:
        return 0.9 if prompt == "opened" else 0.1

    async def generate(self, target: str, prompt: Any, *args: Any, **named: Any) -> Any:
        class Answer:
            alone = prompt != "opened"

        return Answer()


class Reads:
    """A plug-in for which every prompt but `other` names two facts."""

    def views(self, prompt: str) -> list[str]:
        return [] if prompt == "other" else ["a", "b"]


def test_general_text_is_counted() -> None:
    prompts = ["opened", "named", "other", "other"]
    (line,) = asyncio.run(many_facts.general_text(Scripted(), {10: Reads()}, prompts, 2, 0.5))  # type: ignore[dict-item]
    assert (line["named"], line["most_facts_read"], line["opened"], line["not_own"]) == (0.5, 2, 0.25, 0.5)
    request = {
        "edits": 10, "request": "own prompt", "facts_read": 1.0, "most_facts_read": 1, "first_median_ms": 50.0,
        "first_least_ms": 40.0, "ratio": 1.0, "processor_ratio": 1.0, "find_us": 60.0,
    }  # fmt: skip
    assert "| 10 | 4 | 0.500 | 2 | 0.250 | 0.500 of 2 |" in many_facts.tables([request], [line])


def test_the_table_of_edits() -> None:
    names = ("posted", "posted_processor", "right", "right_processor", "deleted", "activated")
    line: dict[str, Any] = {"live": 1000, "edits": 7}
    line |= {f"{name}_{kind}": 0.25 for name in names for kind in ("median", "least")}
    found = live_edit.table([line, line | {"at_once": 1000, "at_once_seconds": 12.34}])
    assert "| 1,000 | 7 | 0.250 / 0.250 |" in found and "| 12.3 |" in found
