"""A grid with any executor: no cell is computed twice, a failed cell does not stop others, progress shows names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from onceedit_ray.comparison import run_grid as module
from onceedit_ray.comparison.cell_store import CellResult, CellStore
from onceedit_ray.comparison.cells import Cell
from onceedit_ray.comparison.run_grid import BoardReader, CellEnd, GridRun, TaskProgress, Tell, now_and_then, run_grid
from onceedit_ray.progress import Count


def cell(name: str, cost: float) -> Cell:
    plan: Any = None  # which nothing here reads
    return Cell(id=name.lower(), row=name, target="", dataset="zsre", plan=plan, cost=cost)


def result(id: str) -> CellResult:
    return CellResult(
        id=id, method="", strategy="", target="", target_model="", dataset="", protocol="", measure="", settings={},
        edits=0, edit_id="", scores={}, drift=None, seconds={}, cpu_seconds={}, machine="", finished="",
    )  # fmt: skip


class Executor:
    """Finishes every cell except those named B, and records which cells it was given in one call."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []

    def __call__(self, cells: Sequence[Cell], results: Path, tell: Tell) -> Iterator[CellEnd]:
        self.groups.append([cell.id for cell in cells])
        for each in cells:
            tell(each.name, Count("scoring", 1, 2))
            if each.id == "b":
                yield CellEnd(each, None, "no room")
            else:
                CellStore(results).commit(result(each.id), [])
                yield CellEnd(each, result(each.id))


CELLS = [cell("A", 3.0), cell("B", 1.0), cell("C", 2.0), cell("A", 3.0)]


def test_cells_are_computed_once_cheap_ones_first_and_a_failure_stands_alone(tmp_path: Path) -> None:
    executor, updates, seen = Executor(), [], []

    def settled(run: GridRun) -> None:
        seen.append((sorted(run.results), sorted(run.failures)))

    run = run_grid(CELLS, tmp_path, executor, updates.append, settled)
    assert executor.groups == [["b", "c", "a"]]
    assert seen == [([], ["b"]), (["c"], ["b"]), (["a", "c"], ["b"])]
    assert run.failures == {"b": "no room"}
    lines = [update for update in updates if isinstance(update, str)]
    assert [line.rpartition(": ")[2] for line in lines] == [
        "0 of 3 cells were finished before", "no room; 2 left", "done; 1 left", "done; 0 left",
    ]  # fmt: skip
    run_grid(CELLS, tmp_path, executor, updates.append)
    assert executor.groups[1:] == [["b"]], "what is finished is not computed again"


def test_one_at_a_time_means_one(tmp_path: Path) -> None:
    executor = Executor()
    run_grid(CELLS, tmp_path, executor, lambda update: None, one_at_a_time=True)
    assert executor.groups == [["b"], ["c"], ["a"]]


def test_without_an_executor_nothing_is_computed(tmp_path: Path) -> None:
    assert run_grid(CELLS, tmp_path, None, lambda update: None) == GridRun()


def test_a_count_carries_its_tasks_name_and_ends_with_its_stage() -> None:
    updates: list[str | Count] = []
    tasks = TaskProgress(updates.append)
    tasks.tell("A", Count("editing", 1, 3))
    tasks.tell("B", "loading")
    tasks.tell("A", Count("scoring", 1, 2))
    tasks.ended("A")
    tasks.ended("B")
    assert updates == [
        Count("A: editing", 1, 3),
        "B: loading",
        Count("A: editing", 3, 3),
        Count("A: scoring", 1, 2),
        Count("A: scoring", 2, 2),
    ]


def test_a_board_tells_what_is_new() -> None:
    told: list[tuple[str, str | Count]] = []
    news = BoardReader(lambda task, update: told.append((task, update)))
    news.read({"A": "loading"})
    news.read({"A": "loading", "B": Count("scoring", 1, 2)})
    news.read({"A": "loading", "B": Count("scoring", 2, 2)})
    assert told == [("A", "loading"), ("B", Count("scoring", 1, 2)), ("B", Count("scoring", 2, 2))]


def test_updates_are_passed_on_once_a_second_and_ends_always(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    updates: list[str | Count] = []
    progress = now_and_then(updates.append)
    for done in range(1, 8):
        progress(Count("scoring", done, 7))
        now[0] += 0.4
    assert [count.done for count in updates] == [1, 4, 7]
