"""A cell from its plan to its result; after a kill at any step it continues and gives the same records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onceedit_ray.baselines import BASELINES
from onceedit_ray.baselines.methods.fine_tune_layer import FineTuneLayer
from onceedit_ray.baselines.methods.grace import Grace
from onceedit_ray.comparison import run_cell
from onceedit_ray.comparison.baseline_cell import BaselineCell
from onceedit_ray.comparison.cell_store import CellStore
from onceedit_ray.comparison.cells import Cell, cells_of
from onceedit_ray.comparison.run_cell import compute, prepare_version
from onceedit_ray.comparison.scoring import KeptRecords, Scoring, Unit
from onceedit_ray.errors import DataError, StoreError
from onceedit_ray.evaluation.records import Record, read_records, records_from
from tests.small_edits import EDITS
from tests.small_grid import FT_L, GRACE, ONCEEDIT, grid, write_files

METHODS = {"FT-L": (FT_L, FineTuneLayer), "GRACE": (GRACE, Grace)}


class Killed(BaseException):
    """Stands for a kill. It is not an `Exception`, so no handler catches it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("running")
    write_files(folder, ["llama", "gpt2"])
    return folder


def cell_of(folder: Path, method: dict[str, Any], **changes: Any) -> Cell:
    (cell,) = cells_of(grid(folder, ["gpt2"], [method], **changes))
    return cell


def silent(line: str) -> None:
    pass


def answers(results: Path, cell: Cell) -> list[Record]:
    """A cell's records without their times."""
    table = read_records(CellStore(results).folder(cell.id) / "records.parquet")
    return [replace(record, seconds=0.0) for record in records_from(table)]


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Cell, Path]]:
    """Every method's cell, computed in one go."""
    found = {}
    for name, (method, _) in METHODS.items():
        cell, results = cell_of(folder, method), tmp_path_factory.mktemp(f"whole-{name}")
        compute(cell, results, None, silent)
        found[name] = (cell, results)
    return found


def test_a_cell_holds_its_figures_and_every_answer(whole: dict[str, tuple[Cell, Path]]) -> None:
    cell, results = whole["GRACE"]
    result = CellStore(results).get(cell.id)
    assert result is not None
    assert (result.method, result.target, result.dataset, result.edits) == ("grace", "gpt2", "zsre", len(EDITS))
    assert result.scores["teacher_forced"]["reliability"] == 1.0 and result.scores["generation"]["locality"] == 1.0
    assert result.drift == 1.0 and result.edit_id == cell.id
    assert {"unedited", "prepare", "edit", "score"} <= result.seconds.keys() == result.cpu_seconds.keys()
    assert {path.name for path in CellStore(results).folder(cell.id).iterdir()} == {"cell.json", "records.parquet"}
    records = answers(results, cell)
    assert {record.record for record in records if record.property != "general"} == set(range(len(EDITS)))
    assert {(r.strategy, r.setting) for r in records if r.property == "reliability"} == {
        (strategy, setting) for strategy in ("unedited", "grace") for setting in ("teacher_forced", "generation")
    }
    assert sum(record.property == "general" for record in records) == 2


def _stop(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int, after: bool) -> None:
    """Kill at the call numbered `calls` of `owner.name`, before or after its work."""
    original: Callable[..., Any] = getattr(owner, name)
    seen = 0

    def dying(*args: Any, **options: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == calls and not after:
            raise Killed
        done = original(*args, **options)
        if seen == calls:
            raise Killed
        return done

    monkeypatch.setattr(owner, name, dying)


POINTS = {
    "before the edit": (BaselineCell, "_prepare", 1, False, True),
    "while the edit is saved": (BaselineCell, "_keep", 1, False, True),
    "after the edit": (BaselineCell, "_keep", 1, True, False),
    "before the first record": (KeptRecords, "add", 1, False, False),
    "after the first record": (KeptRecords, "add", 1, True, False),
    "before the last record": (KeptRecords, "add", len(EDITS) + 2, False, False),
    "before the result": (CellStore, "commit", 1, False, False),
}


KILLS = [(point, "FT-L") for point in POINTS] + [(point, "GRACE") for point in POINTS if "edit" in point]
"""A method's own code is at work at the points of its edit only; `make test-exhaustive` kills both at every point."""


@pytest.mark.parametrize(
    ("point", "name"),
    [
        *KILLS,
        *[
            pytest.param(point, "GRACE", marks=pytest.mark.exhaustive)
            for point in POINTS
            if (point, "GRACE") not in KILLS
        ],
    ],
)
def test_a_killed_cell_goes_on_where_it_was(
    point: str,
    name: str,
    whole: dict[str, tuple[Cell, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell, once = whole[name]
    owner, attribute, calls, after, edited_again = POINTS[point]
    with monkeypatch.context() as patch:
        _stop(patch, owner, attribute, calls, after)
        with pytest.raises(Killed):
            compute(cell, tmp_path, None, silent)
    assert CellStore(tmp_path).get(cell.id) is None
    kept = len(KeptRecords(CellStore(tmp_path).folder(cell.id) / "records.jsonl"))
    edits: list[str] = []
    scored: list[Unit] = []
    edit, evaluated = METHODS[name][1].edit, Scoring._evaluated

    def counted_edit(self: Any, *args: Any) -> Any:
        edits.append(name)
        return edit(self, *args)

    async def counted_scoring(self: Scoring, unit: Unit, config: Any) -> Any:
        if config.strategies:
            scored.append(unit)
        return await evaluated(self, unit, config)

    monkeypatch.setattr(METHODS[name][1], "edit", counted_edit)
    monkeypatch.setattr(Scoring, "_evaluated", counted_scoring)
    compute(cell, tmp_path, None, silent)
    assert bool(edits) == edited_again, "an edit that was saved is not made again"
    assert len(scored) == len(EDITS) + 2 - kept, "what was scored is not scored again"
    assert answers(tmp_path, cell) == answers(once, cell)


def test_a_finished_cell_is_never_computed_again(
    whole: dict[str, tuple[Cell, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, results = whole["FT-L"]
    monkeypatch.setattr(run_cell, "_computed", lambda *args: pytest.fail("it was computed again"))
    assert compute(cell, results, None, silent) == CellStore(results).get(cell.id)


QUICK: dict[str, dict[str, Any]] = {
    "rome": {"steps": 2, "prefixes": [[2, 1]]},
    "memit": {"steps": 2, "prefixes": [[2, 1]]},
    "mend": {"steps": 2, "layers": 2, "rank": 8, "statistics_edits": 4, "edits_per_step": 2},
    "defer": {"steps": 2},
    "wise": {"steps": 2},
}


@pytest.mark.parametrize("protocol", ["batch", "single"])
@pytest.mark.parametrize("method", BASELINES.names())
def test_every_baseline_makes_a_cell(method: str, protocol: str, folder: Path, tmp_path: Path) -> None:
    row = {"label": method, "method": method, "settings": QUICK.get(method, {"steps": 2})}
    result = compute(cell_of(folder, row, protocol=protocol, records=2), tmp_path, None, silent)
    assert result.edits == 2 and result.seconds["edit"] > 0
    for setting in ("teacher_forced", "generation", "text_match"):
        assert all(score is not None and 0 <= score <= 1 for score in result.scores[setting].values())


def test_single_edits_are_taken_back_one_by_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell_of(folder, GRACE, protocol="single")
    made: list[int] = []
    edit = Grace.edit

    def counted(self: Grace, model: Any, tokenizer: Any, edits: Any, progress: Any) -> Any:
        made.append(len(edits))
        return edit(self, model, tokenizer, edits, progress)

    monkeypatch.setattr(Grace, "edit", counted)
    with monkeypatch.context() as patch:
        _stop(patch, KeptRecords, "add", 2, False)
        with pytest.raises(Killed):
            compute(cell, tmp_path, None, silent)
    result = compute(cell, tmp_path, None, silent)
    assert made == [1] * (len(EDITS) + 1), "one record was lost by the kill"
    assert result.scores["generation"]["reliability"] == 1.0 and result.drift is None and result.protocol == "single"


def test_onceedit_scores_one_version_on_every_target(folder: Path, tmp_path: Path) -> None:
    cells = cells_of(grid(folder, ["gpt2", "llama"], [ONCEEDIT]))
    versions = set()
    for cell in cells:
        assert cell.plan.run is not None
        versions.add(prepare_version(cell.plan.run, tmp_path, silent))
        compute(cell, tmp_path, next(iter(versions)), silent)
    results = [CellStore(tmp_path).get(cell.id) for cell in cells]
    assert len(versions) == 1 and {result.edit_id for result in results if result} == versions
    assert all(result and result.seconds["edit"] > 0 and result.scores["generation"] for result in results)


def test_times_alone_are_measured_without_scoring_and_with_an_empty_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[Path] = []
    prepare = FineTuneLayer.prepare

    def spied(self: FineTuneLayer, model: Any, tokenizer: Any, material: Any, progress: Any) -> None:
        caches.append(material.cache)
        assert not list(material.cache.iterdir())
        prepare(self, model, tokenizer, material, progress)

    monkeypatch.setattr(FineTuneLayer, "prepare", spied)
    for cell in cells_of(grid(folder, ["gpt2"], [FT_L, ONCEEDIT], table={"layout": "cost"})):
        result = compute(cell, tmp_path, None, silent)
        assert result.scores == {} and result.seconds["edit"] > 0 and result.cpu_seconds["edit"] > 0
        assert not (CellStore(tmp_path).folder(cell.id) / "records.parquet").exists()
    assert len(caches) == 1 and not caches[0].exists()


def test_a_corpus_that_is_too_short_fails_the_cell_with_its_reason(folder: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("Two words.\n", encoding="utf-8")
    with pytest.raises(DataError, match="give more texts"):
        compute(cell_of(folder, {"label": "ROME", "method": "rome"}, corpus=[short]), tmp_path, None, silent)


def test_a_cell_that_another_run_works_on_is_left_to_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onceedit_ray.comparison.cell_store._LOCK_SECONDS", 0.1)
    cell = cell_of(folder, FT_L)
    with (
        CellStore(tmp_path).lock(cell.id),
        pytest.raises(StoreError, match="being computed by another run"),
    ):
        compute(cell, tmp_path, None, silent)


def test_a_torn_line_and_a_damaged_result_are_told_apart(whole: dict[str, tuple[Cell, Path]], tmp_path: Path) -> None:
    cell, results = whole["FT-L"]
    records = answers(results, cell)[:2]
    kept = KeptRecords(tmp_path / "records.jsonl")
    kept.add(("edit", 1), records)
    kept.add(("edit", 0), records[:1])
    with (tmp_path / "records.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "edit"})[:-3])
    again = KeptRecords(tmp_path / "records.jsonl")
    assert again.records() == [*records[:1], *records] and ("edit", 2) not in again
    again.add(("edit", 2), records)
    assert len(KeptRecords(tmp_path / "records.jsonl")) == 3
    shutil.copytree(results, tmp_path / "copy")
    (CellStore(tmp_path / "copy").folder(cell.id) / "cell.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match=r"cell\.json is damaged .*; remove .* to compute the cell again"):
        CellStore(tmp_path / "copy").get(cell.id)
