"""The matrix of models: what its trials find, its page, and that the page says what the trials say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.model_matrix import COMMAND, FAULTS, PAGE, columns, figures, line_of, page
from benchmarks.model_trials import BROKEN, REFUSED, WORKS, WRONG, Outcome, tried, try_target
from onceedit_ray.errors import ModelError
from onceedit_ray.models import passes
from tests.model_settings import ROWS
from tests.model_types import build_row

QUICK = ("bert", "gpt_neo", "mixtral")


def committed() -> dict[str, list[str]]:
    """The cells of the committed page by their row."""
    lines = re.findall(r"^\| `(.+?)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {row: cells.split(" | ") for row, cells in lines}


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[] if row in QUICK else pytest.mark.exhaustive) for row in ROWS]
)
def test_a_model_works_or_is_refused_as_the_page_says(row: str) -> None:
    name, outcomes = line_of(row)
    assert name == row
    assert [outcome for outcome in outcomes if outcome.verdict in FAULTS] == []
    assert [outcome.verdict == WORKS for outcome in outcomes] == [cell == "✓" for cell in committed()[row]]
    assert all("\n" not in outcome.reason for outcome in outcomes)


def test_a_wrong_answer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with our mask, which lacks GPT-Neo's windows: right at its beginning, wrong after the window."""
    folder = build_row("gpt_neo", tmp_path / "m")
    monkeypatch.setattr(passes, "has_window_of_its_own", lambda config: False)
    outcome = tried(lambda: try_target(folder))
    assert outcome.verdict == WRONG
    assert "the greedy text is another one from token" in outcome.reason


def test_how_a_trial_ends() -> None:
    def refused() -> str:
        raise ModelError("no such model; choose another")

    def broken() -> str:
        raise KeyError("layer\n3")

    assert tried(lambda: "") == Outcome(WORKS)
    assert tried(lambda: "other text") == Outcome(WRONG, "other text")
    assert tried(refused) == Outcome(REFUSED, "no such model; choose another")
    assert tried(broken).verdict == BROKEN
    assert "\n" not in tried(broken).reason


def test_the_page_numbers_reasons_of_one_kind_once() -> None:
    def none_has(kind: str, layer: int) -> Outcome:
        return Outcome(REFUSED, f"model.layers.{layer} of {kind}ForCausalLM has no MLP of width {layer + 8}")

    works = Outcome(WORKS)
    rest = [works] * (len(columns()) - 3)
    lines = [
        ("a", [works, works, none_has("A", 0), *rest]),
        ("b", [none_has("B", 1), Outcome(REFUSED, "no end"), works, *rest]),
        ("c", [Outcome(WRONG, "other text"), Outcome(BROKEN, "KeyError: 3"), works, *rest]),
    ]
    text = page(lines)
    ticks = " | ".join("✓" for _ in rest)
    assert f"| `a` | ✓ | ✓ | 1 | {ticks} |" in text
    assert f"| `b` | 1 | 2 | ✓ | {ticks} |" in text
    assert f"| `c` | **wrong** 3 | **error** 4 | ✓ | {ticks} |" in text
    assert "1. model.layers.0 of AForCausalLM has no MLP of width 8\n2. no end\n3. other text" in text
    assert "| families in the matrix that give a wrong answer silently | 1 |" in figures(lines)
    assert "| families in the matrix with an error that is not one line | 1 |" in figures(lines)
    assert f"```\n{COMMAND}\n```" in text


def test_the_committed_page_has_every_row_and_no_fault() -> None:
    assert list(committed()) == ROWS
    assert len(ROWS) >= 40
    text = PAGE.read_text(encoding="utf-8")
    assert f"| family | {' | '.join(columns())} |" in text
    assert "| families in the matrix that give a wrong answer silently | 0 |" in text
    assert "| families in the matrix with an error that is not one line | 0 |" in text
    assert not any(mark in cell for cells in committed().values() for cell in cells for mark in FAULTS.values())
