"""The benchmark of the fact index: what it counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import fact_index
from onceedit_ray.knowledge.edit import Edit

EDITS = [
    Edit(prompt=f"Where is {name}?", target_new="x", subject=name, rephrasings=(f"{name} lies in which country?",))
    for name in ("Norland", "Vexholm", "Borograd")
]


@pytest.mark.parametrize("engine", ["facts", "SQLite FTS5"])
def test_an_engine_is_asked_the_rephrasings_and_general_text(engine: str) -> None:
    general = ["The sea is wide.", "Borograd is far away.", "Nothing at all"]
    line = fact_index.measure("small", engine, EDITS, general)
    assert (line.edits, line.recall, line.first) == (3, 1.0, 1.0)
    assert (line.open, line.candidates) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert line.find > 0 and line.megabytes > 0


def test_places() -> None:
    assert fact_index.place_of(7, [(3, 2.0), (7, 1.0)]) == 1
    assert fact_index.place_of(8, [(3, 2.0), (7, 1.0)]) is None


def test_the_table_names_what_was_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> fact_index.Engine:
        raise ImportError("no such engine")

    monkeypatch.setattr(fact_index, "ENGINES", {"facts": fact_index.Facts, "other": absent})
    monkeypatch.chdir(tmp_path)
    records = [{"src": e.prompt, "alt": "x", "subject": e.subject, "rephrase": e.rephrasings[0]} for e in EDITS]
    (tmp_path / "zsre.json").write_text(json.dumps(records))
    (tmp_path / "general.txt").write_text("The sea is wide.\n")
    options = ["--zsre", "zsre.json", "--counterfact", "zsre.json", "--general", "general.txt", "--sizes", "2"]
    fact_index.main([*options, "--results", "out"])
    table = (tmp_path / "out" / "fact_index.md").read_text()
    assert table.count("| 2 | facts | 1.000 | 1.000 | 0.000 |") == 2
    assert "Not installed, and not measured: other." in table
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["out"]
