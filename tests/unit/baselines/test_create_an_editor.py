"""The editor that docs/create-an-editor.md shows is taken out of the page and run."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from onceedit_ray.baselines import BASELINES
from onceedit_ray.baselines.teacher_forcing import answer_batch, answer_loss
from tests.baseline_models import EDITS, Small, changed, parameters
from tests.paths import ROOT

PAGE = ROOT / "docs" / "create-an-editor.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The editor's file, as a module whose registration lasts as long as the test."""
    BASELINES.names()  # all that are there are found before the copy is made
    monkeypatch.setattr(BASELINES, "_entries", dict(BASELINES._entries))
    source = tmp_path / "gradient_steps.py"
    source.write_text(blocks()[0], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gradient_steps", raising=False)
    return importlib.import_module("gradient_steps")


def test_the_page_has_an_editor_and_its_use() -> None:
    assert len(blocks()) == 2


def test_the_documented_editor_edits_undoes_saves_and_loads(example: Any, given: Small, tmp_path: Path) -> None:
    model, tokenizer = given.model, given.tokenizer
    before = parameters(model)
    batch = answer_batch(tokenizer, [(edit.prompt, edit.target_new) for edit in EDITS], "cpu")

    def loss() -> float:
        with torch.no_grad():
            return answer_loss(model, batch).item()

    own = loss()
    names: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "edits": EDITS, "folder": tmp_path / "kept"}
    exec(compile(blocks()[1], str(PAGE), "exec"), names)
    assert loss() < own - 0.5
    assert len(changed(model, before)) == 1
    names["edited"].undo()
    assert not changed(model, before)


def test_the_documented_editor_works_on_a_frozen_model_and_leaves_it_frozen(example: Any, given: Small) -> None:
    frozen = given.again().requires_grad_(False)
    before = parameters(frozen)
    method = example.GradientSteps(example.GradientStepsSettings())
    with torch.no_grad():
        edited = method.edit(frozen, given.tokenizer, EDITS, [].append)
    assert changed(frozen, before)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    edited.undo()
    assert not changed(frozen, before)


def test_the_documented_editor_stopped_midway_leaves_the_model_as_it_was(example: Any, given: Small) -> None:
    before = parameters(given.model)
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            assert changed(given.model, before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        example.GradientSteps(example.GradientStepsSettings()).edit(given.model, given.tokenizer, EDITS, stop)
    assert not changed(given.model, before)
