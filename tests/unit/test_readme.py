"""The README's Python example runs unchanged, with small models instead of those that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.families import build_family
from tests.paths import ROOT
from tests.small_edits import EDITS

README = (ROOT / "README.md").read_text(encoding="utf-8")
(EXAMPLE,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "open_decoder" in block]


def test_the_python_example_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
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
        "targets": {"gemma": models["gpt2"]},
        "editing": {"max_epochs": 1, "min_epochs": 1, "unrelated_per_epoch": 4},
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    exec(compile(EXAMPLE, "README.md", "exec"), {"__name__": "example"})
    *_, last = capsys.readouterr().out.splitlines()
    assert re.search(r"(\d\.\d+(e-\d+)?)$", last), "the answer's text, then the gate's weight"


def test_it_has_about_ten_lines() -> None:
    assert len([line for line in EXAMPLE.splitlines() if line]) <= 12


def test_the_paper_is_cited_alike_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    for page in ("README.md", "docs/algorithm.md", "docs/what-differs-from-the-paper.md"):
        assert paper["url"] in (ROOT / page).read_text(encoding="utf-8")
    assert paper["title"] in (ROOT / "docs/algorithm.md").read_text(encoding="utf-8")
