"""A grid as Ray tasks: one for each cell on resources of its own, one for each edit of the plug-in that cells share.

A finished cell is never run again; one that fails leaves the others alone and is named with its reason. Every task
runs in a process of its own, which ends with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from onceedit_ray.comparison.cell_archive import ARCHIVE, write_archive
from onceedit_ray.comparison.cell_store import CellResult, CellStore
from onceedit_ray.comparison.cells import Cell, cells_of, cheapest_first
from onceedit_ray.comparison.grid_config import GridConfig
from onceedit_ray.comparison.grid_report import write_comparison
from onceedit_ray.comparison.progress import Progress, ProgressView
from onceedit_ray.comparison.run_cell import compute, prepare_version, reason_of
from onceedit_ray.config import RunConfig
from onceedit_ray.digest import digest
from onceedit_ray.threads import SLEEPING

POLL_SECONDS = 2.0
_TELL_SECONDS = 1.0


def compare(config: GridConfig, results: Path, command: str, say: Progress) -> int:
    """Run a whole grid and write `results/<name>/`; 0 where every cell was computed, 1 where one failed.

    The report is written after every cell, so that what is finished can be read. Raises the errors of a grid file, its
    data and its models before any cell is begun.
    """
    cells = cells_of(config, say)
    if not ray.is_initialized():
        ray.init(log_to_driver=True)
    folder = results / config.name

    def report(run: GridRun) -> str:
        return write_comparison(folder, config, cells, run.results, run.failures, command)

    run = run_grid(cells, results, say, report, one_at_a_time=config.table.layout == "cost")
    say(f"\n{report(run)}\n\nresults: {folder}")
    write_archive(folder / ARCHIVE, cells, run.results, CellStore(results))
    failed = [f"{cell.name}: {run.failures[cell.id]}" for cell in cells if cell.id in run.failures]
    if failed:
        say("\n".join([f"{len(failed)} cells failed; the same command tries them again:", *failed]))
    return 1 if failed else 0


@dataclass
class GridRun:
    """What became of a grid's cells: results by id, and for those that failed the reason."""

    results: dict[str, CellResult] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@ray.remote(num_cpus=0)
class Board:
    """What every task does right now: its last line."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}

    def tell(self, task: str, line: str) -> None:
        """Put up a task's line in place of its last."""
        self._lines[task] = line

    def lines(self) -> dict[str, str]:
        """All lines, by task."""
        return dict(self._lines)


@ray.remote(max_retries=0, max_calls=1, runtime_env={"env_vars": SLEEPING})
def version_task(run: RunConfig, results: Path, name: str, board: Any) -> str:
    """Edit the plug-in; the version's id."""
    return prepare_version(run, results, _told(board, name))


@ray.remote(max_retries=0, max_calls=1, runtime_env={"env_vars": SLEEPING})
def cell_task(cell: Cell, results: Path, version: str | None, board: Any) -> CellResult:
    """Compute and commit one cell."""
    return compute(cell, results, version, _told(board, cell.id))


def run_grid(
    cells: Sequence[Cell],
    results: Path,
    say: Progress,
    settled: Callable[[GridRun], object] = lambda run: None,
    one_at_a_time: bool = False,
) -> GridRun:
    """Compute the cells that are not finished, cheap ones first, and show how far they are.

    settled: called after every cell that ended, well or not. one_at_a_time: for times that are to be compared:
    nothing runs beside them.
    """
    run, store = GridRun(), CellStore(results)
    left = []
    for cell in {cell.id: cell for cell in cheapest_first(cells)}.values():
        done = store.get(cell.id)
        if done is None:
            left.append(cell)
        else:
            run.results[cell.id] = done
    say(f"{len(run.results)} of {len(run.results) + len(left)} cells were finished before")
    if left:
        for group in [[cell] for cell in left] if one_at_a_time else [left]:
            _run(group, results, run, ProgressView(say), settled)
    return run


def _run(
    cells: Sequence[Cell], results: Path, run: GridRun, view: ProgressView, settled: Callable[[GridRun], object]
) -> None:
    board = Board.remote()  # type: ignore[attr-defined]
    versions = _Versions(results, view, board)
    waiting: dict[Any, Cell] = {}
    for cell in cells:
        task = cell_task.options(**_resources(cell)).remote(cell, results, versions.of(cell), board)
        waiting[task] = cell
        view.add(cell.id, cell.name)
    try:
        while waiting:
            done, _ = ray.wait([*waiting, *versions.waiting], timeout=POLL_SECONDS)
            view.show(ray.get(board.lines.remote()))
            for task in done:
                if task in waiting:
                    _settle(task, waiting.pop(task), run, view)
                    settled(run)
                else:
                    versions.settle(task)
    finally:
        for task in [*waiting, *versions.waiting]:
            ray.cancel(task, force=True)
        ray.kill(board)


class _Versions:
    """The plug-in's edits: one task for all cells that score the same one.

    waiting: the tasks that run, by name.
    """

    def __init__(self, results: Path, view: ProgressView, board: Any) -> None:
        self.waiting: dict[Any, str] = {}
        self._results, self._view, self._board = results, view, board
        self._tasks: dict[str, Any] = {}

    def of(self, cell: Cell) -> Any:
        """The future id of the version that a cell scores; None for a cell without one."""
        run = cell.plan.run
        if run is None or cell.plan.measure == "cost":
            return None
        name = digest([run.knowledge, run.plugin, run.editing])
        if name not in self._tasks:
            resources = {"num_cpus": run.plugin.num_cpus, "num_gpus": run.plugin.num_gpus}
            task = version_task.options(**resources).remote(run, self._results, name, self._board)
            self._tasks[name], self.waiting[task] = task, name
            self._view.add(name, f"editing the plug-in · {cell.dataset} · {cell.row}")
        return self._tasks[name]

    def settle(self, task: Any) -> None:
        """Say what became of a task; the cells that wait for it are told by Ray."""
        name = self.waiting.pop(task)
        try:
            ray.get(task)
        except RayError as error:
            self._view.failed(name, _reason(error))
        else:
            self._view.finished(name)


def _resources(cell: Cell) -> dict[str, Any]:
    """A cell's own: the target's, and the plug-in's beside it where there is one."""
    models: list[Any] = [cell.plan.target]
    if cell.plan.run is not None:
        models.append(cell.plan.run.plugin)
    options: dict[str, Any] = {
        "num_cpus": max(model.num_cpus for model in models),
        "num_gpus": sum(model.num_gpus for model in models),
    }
    if cell.plan.target.memory_gib:
        options["memory"] = int(cell.plan.target.memory_gib * 2**30)
    return options


def _settle(task: Any, cell: Cell, run: GridRun, view: ProgressView) -> None:
    try:
        run.results[cell.id] = ray.get(task)
    except RayError as error:
        run.failures[cell.id] = _reason(error)
        view.failed(cell.id, run.failures[cell.id])
    else:
        view.finished(cell.id)


def _reason(error: RayError) -> str:
    """`reason_of` what was raised over there."""
    cause: BaseException = error
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    return reason_of(cause)


def _told(board: Any, task: str) -> Callable[[str], None]:
    """A progress function that puts lines on the board, at most one a second."""
    last = 0.0

    def tell(line: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _TELL_SECONDS:
            last = now
            board.tell.remote(task, line)

    return tell
