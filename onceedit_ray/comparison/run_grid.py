"""A grid from its file to its report: which cells are left, what becomes of each, and the report after every one.

Where cells are computed is an executor's business: processes of this machine (`comparison.processes`) or Ray tasks
(`cluster.grid`). A finished cell is never computed again; one that fails leaves the others alone and is named with its
reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from onceedit_ray.comparison.cell_archive import ARCHIVE, placed_cells, read_archive, write_archive
from onceedit_ray.comparison.cell_store import CellResult, CellStore
from onceedit_ray.comparison.cells import Cell, cells_of, cheapest_first
from onceedit_ray.comparison.grid_config import GridConfig
from onceedit_ray.comparison.grid_report import write_comparison
from onceedit_ray.errors import DataError
from onceedit_ray.progress import Count, Progress

SECONDS_BETWEEN_UPDATES = 1.0

Tell = Callable[[str, str | Count], None]
"""Takes the name of a task and what it does right now."""


@dataclass(frozen=True)
class CellEnd:
    """What became of a cell: its result, or None and the reason why it failed."""

    cell: Cell
    result: CellResult | None
    reason: str = ""


class Executor(Protocol):
    """Computes cells."""

    def __call__(self, cells: Sequence[Cell], results: Path, tell: Tell) -> Iterator[CellEnd]:
        """Compute and commit `cells`, as many at once as there is room for; yields each as it ends, well or not."""


@dataclass
class GridRun:
    """What became of a grid's cells: results by id, and for those that failed the reason."""

    results: dict[str, CellResult] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def compare(config: GridConfig, results: Path, command: str, executor: Executor | None, progress: Progress) -> int:
    """Run a whole grid and write `results/<name>/`; 0 where every cell was computed, 1 where one failed.

    The report is written after every cell, so that what is finished can be read. Without an executor none is computed
    and the report is of what is finished. Raises the errors of a grid file, its data and its models before any cell is
    begun.
    """
    cells = cells_of(config, progress)
    folder = results / config.name

    def report(run: GridRun) -> str:
        return write_comparison(folder, config, cells, run.results, run.failures, command)

    run = run_grid(cells, results, executor, progress, report, one_at_a_time=config.table.layout == "cost")
    progress(f"\n{report(run)}\n\nresults: {folder}")
    write_archive(folder / ARCHIVE, cells, run.results, CellStore(results))
    failed = [f"{cell.name}: {run.failures[cell.id]}" for cell in cells if cell.id in run.failures]
    if failed:
        progress("\n".join([f"{len(failed)} cells failed; the same command tries them again:", *failed]))
    return 1 if failed else 0


def report_archive(config: GridConfig, archive: Path, results: Path, command: str, progress: Progress) -> int:
    """Write `results/<name>/` from the cells of an archive alone: no model and no data is read.

    Raises `DataError` where the file is no archive, or has no cell of this grid.
    """
    cells, found = placed_cells(config, read_archive(archive))
    if not found:
        raise DataError(f"{archive}: has no cell of {config.name}; name the archive and the scale of one grid file")
    progress(f"\n{write_comparison(results / config.name, config, cells, found, {}, command)}")
    progress(f"\nresults: {results / config.name}")
    return 0


def run_grid(
    cells: Sequence[Cell],
    results: Path,
    executor: Executor | None,
    progress: Progress,
    settled: Callable[[GridRun], object] = lambda run: None,
    one_at_a_time: bool = False,
) -> GridRun:
    """Compute the cells that are not finished, cheap ones first, and show how far they are.

    settled: called after every cell that ended, well or not. one_at_a_time: for times that are to be compared:
    nothing runs beside them.
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
    """The progress of many tasks as one: what each tells carries its name."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._counts: dict[str, Count] = {}

    def tell(self, task: str, update: str | Count) -> None:
        """Pass on what a task does now; a count of something else than before ends the count before."""
        if isinstance(update, str):
            self._progress(f"{task}: {update}")
            return
        count = replace(update, what=f"{task}: {update.what}")
        if task in self._counts and self._counts[task].what != count.what:
            self.ended(task)
        self._progress(count)
        self._counts[task] = count

    def ended(self, task: str) -> None:
        """Bring a task's last count to its end, whose last step may have passed unseen."""
        last = self._counts.pop(task, None)
        if last is not None and last.done < last.total:
            self._progress(replace(last, done=last.total))


class News:
    """Tells what has changed on a board that holds the last update of every task."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told: dict[str, str | Count] = {}

    def read(self, board: Mapping[str, str | Count]) -> None:
        """Tell every update that is not the one told before."""
        for task, update in board.items():
            if self._told.get(task) != update:
                self._told[task] = update
                self._tell(task, update)


def now_and_then(progress: Progress) -> Progress:
    """`progress`, called at most once a second, but for the ends of counts."""
    last = 0.0

    def tell(update: str | Count) -> None:
        nonlocal last
        now = time.monotonic()
        at_end = isinstance(update, Count) and update.done >= update.total
        if at_end or now - last >= SECONDS_BETWEEN_UPDATES:
            last = now
            progress(update)

    return tell
