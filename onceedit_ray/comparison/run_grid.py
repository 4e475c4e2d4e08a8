"""Runs a grid: computes the cells that are not finished, and writes the report after every cell.

An executor computes the cells: processes of this machine (`comparison.processes`) or Ray tasks (`cluster.grid`). A
finished cell is never computed again. A cell that fails does not stop the others, and is listed with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from onceedit_ray.comparison.cell_archive import ARCHIVE, placed_cells, read_archive, write_archive
from onceedit_ray.comparison.cell_store import FINISHED, CellResult, CellStore
from onceedit_ray.comparison.cells import Cell, cells_of, cheapest_first
from onceedit_ray.comparison.grid_config import GridConfig
from onceedit_ray.comparison.grid_report import write_comparison
from onceedit_ray.errors import DataError
from onceedit_ray.progress import Count, Progress
from onceedit_ray.results import Results

SECONDS_BETWEEN_UPDATES = 1.0

Tell = Callable[[str, str | Count], None]
"""Takes the name of a task and its latest progress."""


@dataclass(frozen=True)
class CellEnd:
    """The outcome of a cell: its result, or None and the reason why it failed."""

    cell: Cell
    result: CellResult | None
    reason: str = ""


class Executor(Protocol):
    """Computes cells."""

    def __call__(self, cells: Sequence[Cell], results: Path, tell: Tell) -> Iterator[CellEnd]:
        """Compute and commit `cells`, as many at once as there is room for; yields each when it succeeds or fails."""


@dataclass
class GridRun:
    """The outcomes of a grid's cells: results by id, and the reasons of failed cells."""

    results: dict[str, CellResult] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def compare(config: GridConfig, results: Results, command: str, executor: Executor | None, progress: Progress) -> int:
    """Run a whole grid and write the folder `config.name` of `results`.

    Returns 0 if every cell was computed, 1 if one failed. The report is written after every cell, so that finished
    cells can be read early. Without an executor no cell is computed, and the report shows the finished ones. Raises the
    errors of the grid file, its data and its models before the first cell begins.
    """
    cells = cells_of(config, progress)
    folder = results.folder / config.name
    kept = (*FINISHED, f"{config.name}/*")
    results.fetch(FINISHED)

    def report(run: GridRun) -> str:
        table = write_comparison(folder, config, cells, run.results, run.failures, command)
        results.publish(kept)
        return table

    run = run_grid(cells, results.folder, executor, progress, report, one_at_a_time=config.table.layout == "cost")
    progress(f"\n{report(run)}\n\nresults: {results.named(config.name)}")
    write_archive(folder / ARCHIVE, cells, run.results, CellStore(results.folder))
    results.publish(kept)
    failed = [f"{cell.name}: {run.failures[cell.id]}" for cell in cells if cell.id in run.failures]
    if failed:
        progress("\n".join([f"{len(failed)} cells failed; the same command tries them again:", *failed]))
    return 1 if failed else 0


def report_archive(config: GridConfig, archive: Path, results: Results, command: str, progress: Progress) -> int:
    """Write `results/<name>/` from the cells of an archive alone: no model and no data is read.

    Raises `DataError` if the file is not an archive, or has no cell of this grid.
    """
    cells, found = placed_cells(config, read_archive(archive))
    if not found:
        raise DataError(f"{archive}: has no cell of {config.name}; name the archive and the scale of one grid file")
    progress(f"\n{write_comparison(results.folder / config.name, config, cells, found, {}, command)}")
    results.publish([f"{config.name}/*"])
    progress(f"\nresults: {results.named(config.name)}")
    return 0


def run_grid(
    cells: Sequence[Cell],
    results: Path,
    executor: Executor | None,
    progress: Progress,
    settled: Callable[[GridRun], object] = lambda run: None,
    one_at_a_time: bool = False,
) -> GridRun:
    """Compute the cells that are not finished, cheap ones first, and show their progress.

    settled: called after every cell that succeeded or failed. one_at_a_time: compute only one cell at a time, so that
    their times can be compared.
    """
    run, store = GridRun(), CellStore(results)
    left: list[Cell] = []
    for cell in {cell.id: cell for cell in cheapest_first(cells)}.values():
        done = store.get(cell.id)
        if done is None:
            left.append(cell)
        else:
            run.results[cell.id] = done
    progress(f"{len(run.results)} of {len(run.results) + len(left)} cells were finished before")
    if executor is None or not left:
        return run
    tasks = TaskProgress(progress)
    remaining = len(left)
    for group in [[cell] for cell in left] if one_at_a_time else [left]:
        for end in executor(group, results, tasks.tell):
            remaining -= 1
            if end.result is None:
                run.failures[end.cell.id] = end.reason
            else:
                run.results[end.cell.id] = end.result
            tasks.ended(end.cell.name)
            progress(f"{end.cell.name}: {f'FAILED: {end.reason}' if end.reason else 'done'}; {remaining} left")
            settled(run)
    return run


class TaskProgress:
    """Joins the progress of many tasks: each update is shown with the name of its task."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._counts: dict[str, Count] = {}

    def tell(self, task: str, update: str | Count) -> None:
        """Show an update of a task; when a task begins to count something else, its earlier count ends."""
        if isinstance(update, str):
            self._progress(f"{task}: {update}")
            return
        count = replace(update, what=f"{task}: {update.what}")
        if task in self._counts and self._counts[task].what != count.what:
            self.ended(task)
        self._progress(count)
        self._counts[task] = count

    def ended(self, task: str) -> None:
        """Complete the last count of a task, whose last step may not have been reported."""
        last = self._counts.pop(task, None)
        if last is not None and last.done < last.total:
            self._progress(replace(last, done=last.total))


class BoardReader:
    """Shows what has changed on a board that holds the last update of every task."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told: dict[str, str | Count] = {}

    def read(self, board: Mapping[str, str | Count]) -> None:
        """Show each update that has changed since the last call."""
        for task, update in board.items():
            if self._told.get(task) != update:
                self._told[task] = update
                self._tell(task, update)


def now_and_then(progress: Progress) -> Progress:
    """`progress`, but called at most once a second, except at the end of a count."""
    last = 0.0

    def tell(update: str | Count) -> None:
        nonlocal last
        now = time.monotonic()
        at_end = isinstance(update, Count) and update.done >= update.total
        if at_end or now - last >= SECONDS_BETWEEN_UPDATES:
            last = now
            progress(update)

    return tell
