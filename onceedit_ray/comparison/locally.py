"""A grid on this machine without Ray: each cell in a process of its own, a few at once.

The same cells, in the same folders, as the Ray job's: what one has finished the other does not compute again.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path

from onceedit_ray.comparison.cell_archive import ARCHIVE, placed_cells, read_archive, unpack, write_archive
from onceedit_ray.comparison.cell_store import CellResult, CellStore
from onceedit_ray.comparison.cells import Cell, cells_of, cheapest_first
from onceedit_ray.comparison.grid_config import GridConfig
from onceedit_ray.comparison.grid_report import write_comparison
from onceedit_ray.comparison.progress import Progress
from onceedit_ray.comparison.run_cell import compute, prepare_version, reason_of
from onceedit_ray.errors import DataError


def compare_here(config: GridConfig, results: Path, command: str, at_once: int, say: Progress) -> int:
    """Run a whole grid and write `results/<name>/`; 0 where every cell was computed, 1 where one failed.

    at_once: how many cells are computed at the same time; a grid of times takes one after another whatever is given.
        0 computes none: the report is written of what is finished.
    """
    cells = cells_of(config, say)
    store = CellStore(results)
    done = {cell.id: result for cell in cells if (result := store.get(cell.id)) is not None}
    left = list({cell.id: cell for cell in cheapest_first(cells) if cell.id not in done}.values())
    failures: dict[str, str] = {}
    say(f"{len(done)} of {len(done) + len(left)} cells were finished before")

    def report() -> str:
        return write_comparison(results / config.name, config, cells, done, failures, command)

    def settle(cell: Cell, future: Future[CellResult]) -> None:
        try:
            done[cell.id] = future.result()
            say(f"{cell.name}: done")
        except Exception as error:
            failures[cell.id] = reason_of(error)
            say(f"{cell.name}: FAILED: {failures[cell.id]}")
        report()

    if at_once > 0:
        _run(left, results, 1 if config.table.layout == "cost" else at_once, settle)
    say(f"\n{report()}\n\nresults: {results / config.name}")
    write_archive(results / config.name / ARCHIVE, cells, done, store)
    return 1 if failures else 0


def report_archive(config: GridConfig, archive: Path, results: Path, command: str, say: Progress) -> int:
    """Write `results/<name>/` from the cells of an archive alone: no model and no data is read.

    Raises `DataError` where the file is no archive, or has no cell of this grid.
    """
    cells, found = placed_cells(config, read_archive(archive))
    if not found:
        raise DataError(f"{archive}: has no cell of {config.name}; name the archive and the scale of one grid file")
    say(f"\n{write_comparison(results / config.name, config, cells, found, {}, command)}")
    say(f"\nresults: {results / config.name}")
    return 0


def take_archive(archive: Path, results: Path) -> None:
    """Unpack an archive's cells into a results folder, so that they are not computed again; raises `DataError`."""
    unpack(read_archive(archive), CellStore(results))


def _run(
    cells: Sequence[Cell], results: Path, at_once: int, settle: Callable[[Cell, Future[CellResult]], None]
) -> None:
    # Not forked: torch's threads do not survive it. One cell a process, so that its memory goes with it.
    context = multiprocessing.get_context("spawn")
    waiting: dict[Future[CellResult], Cell] = {}
    for cell in cells:
        pool = ProcessPoolExecutor(1, mp_context=context)  # of its own: a process that is killed breaks its pool alone
        waiting[pool.submit(_compute, cell, results)] = cell
        pool.shutdown(wait=False)
        while len(waiting) >= at_once:
            _settle_first(waiting, settle)
    while waiting:
        _settle_first(waiting, settle)


def _settle_first(waiting: dict[Future[CellResult], Cell], settle: Callable[[Cell, Future[CellResult]], None]) -> None:
    finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in finished:
        settle(waiting.pop(future), future)


def _compute(cell: Cell, results: Path) -> CellResult:
    progress = partial(_print, cell.name)
    run = cell.plan.run
    version = prepare_version(run, results, progress) if run and cell.plan.measure == "scores" else None
    return compute(cell, results, version, progress)


def _print(name: str, line: str) -> None:
    print(f"  {name}: {line}", flush=True)
