"""The Python examples of README and docs run unchanged, with small models instead of those that they name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.families import build_family
from tests.paths import ROOT
from tests.small_edits import EDITS

PAGES = ("README.md", "docs/python.md")


def example(page: str) -> str:
    """The Python example of a page that opens `OnceEdit`."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if "OnceEdit.open" in block]
    return str(found)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_example_answers(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    models = {
        name: f"local:{build_family(name, tmp_path / name, seed=seed)}" for seed, name in enumerate(("llama", "gpt2"))
    }
    rows = [{"prompt": edit.prompt, "target_new": edit.target_new} for edit in EDITS]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = {
        "name": "quickstart",
        "knowledge": {"path": "edits.jsonl"},
        "plugin": models["llama"],
        "targets": {"qwen": models["gpt2"]},
        "editing": {"max_epochs": 1, "min_epochs": 1, "unrelated_per_epoch": 4},
        "fusion": {"max_new_tokens": 4},
    }
    (tmp_path / "quickstart.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    monkeypatch.setattr("onceedit_ray.api.packaged_run_file", lambda: tmp_path / "quickstart.yaml")
    exec(compile(example(page), page, "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", PAGES)
def test_it_has_about_ten_lines(page: str) -> None:
    assert len([line for line in example(page).splitlines() if line]) <= 12


def test_the_paper_is_cited_alike_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    for page in ("README.md", "docs/algorithm.md", "docs/what-differs-from-the-paper.md"):
        assert paper["url"] in (ROOT / page).read_text(encoding="utf-8")
    assert paper["title"] in (ROOT / "docs/algorithm.md").read_text(encoding="utf-8")


def test_the_demo_of_the_readme_is_one_that_was_run() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```\n(\d+ facts edited once.*?)```", page, re.DOTALL)
    parts = (ROOT / "docs/results/quickstart/demo.txt").read_text(encoding="utf-8").split("\n\n")
    at = [parts.index(part) for part in shown.strip().split("\n\n")]
    assert at == sorted(at) and at[0] == 0
    scores = json.loads((ROOT / "docs/results/quickstart/summary.json").read_text(encoding="utf-8"))
    assert f"(version {scores['plugin']})" in shown
