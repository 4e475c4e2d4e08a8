"""Computes the cells of a grid on this machine without Ray: each in its own process, a few at once.

Ray tasks compute the same cells in the same folders, so a cell that either of them has finished is not computed again.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, MutableMapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path

from onceedit_ray.comparison.cell_store import CellResult
from onceedit_ray.comparison.cells import Cell
from onceedit_ray.comparison.run_cell import compute, prepare_version, reason_of
from onceedit_ray.comparison.run_grid import BoardReader, CellEnd, Executor, Tell, now_and_then
from onceedit_ray.progress import Count

Board = MutableMapping[str, str | Count]
POLL_SECONDS = 1.0


def in_processes(at_once: int) -> Executor:
    """The executor that computes `at_once` cells at the same time, 1 or more."""
    return partial(_run, at_once)


def _run(at_once: int, cells: Sequence[Cell], results: Path, tell: Tell) -> Iterator[CellEnd]:
    # Spawned, not forked: torch's threads do not survive a fork. One process for each cell, so that memory is freed.
    context = multiprocessing.get_context("spawn")
    news = BoardReader(tell)
    waiting: dict[Future[CellResult], Cell] = {}
    with context.Manager() as manager:
        board: Board = manager.dict()
        left = list(cells)
        while left or waiting:
            while left and len(waiting) < at_once:
                cell = left.pop(0)
                # One pool for each cell: a process that is killed breaks only its own pool.
                pool = ProcessPoolExecutor(1, mp_context=context)
                waiting[pool.submit(_compute, cell, results, board)] = cell
                pool.shutdown(wait=False)
            finished, _ = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            news.read(dict(board))
            for future in finished:
                yield _end(waiting.pop(future), future)


def _end(cell: Cell, future: Future[CellResult]) -> CellEnd:
    try:
        return CellEnd(cell, future.result())
    except Exception as error:
        return CellEnd(cell, None, reason_of(error))


def _compute(cell: Cell, results: Path, board: Board) -> CellResult:
    progress = now_and_then(partial(board.__setitem__, cell.name))
    run = cell.plan.run
    version = prepare_version(run, results, progress) if run and cell.plan.measure == "scores" else None
    return compute(cell, results, version, progress)
