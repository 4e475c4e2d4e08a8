"""Computes the cells of a grid as Ray tasks: one task for each cell, with its own resources, and one for each edit of
the plug-in that cells share. Every task runs in its own process, which ends with the task.

The nodes need no common folder: finished cells and versions come to the driver's results folder, and a node fetches the
version that it scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import remove_placement_group

from onceedit_ray.cluster.on_this_node import SentVersion, names_the_node, sent, version_here
from onceedit_ray.cluster.placement import fits_a_node, reserve_all
from onceedit_ray.comparison.cell_store import CellResult, CellStore
from onceedit_ray.comparison.cells import Cell
from onceedit_ray.comparison.run_cell import compute, prepare_version, reason_of, version_store
from onceedit_ray.comparison.run_grid import BoardReader, CellEnd, Tell, now_and_then
from onceedit_ray.config import ModelConfig, RunConfig
from onceedit_ray.digest import digest
from onceedit_ray.editing.run import recipe_of
from onceedit_ray.errors import StoreError
from onceedit_ray.evaluation.records import Record
from onceedit_ray.fusion.system import folder_of
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.progress import Count, Progress
from onceedit_ray.threads import SLEEPING

POLL_SECONDS = 2.0


@ray.remote(num_cpus=0)
class Board:
    """Holds the last progress update of every task."""

    def __init__(self) -> None:
        self._updates: dict[str, str | Count] = {}

    def tell(self, task: str, update: str | Count) -> None:
        """Replace the last update of a task."""
        self._updates[task] = update

    def updates(self) -> dict[str, str | Count]:
        """The last update of every task."""
        return dict(self._updates)


@ray.remote(max_retries=0, max_calls=1, runtime_env={"env_vars": SLEEPING})
def version_task(run: RunConfig, results: Path, name: str, board: Any) -> SentVersion | Path:
    """Edit the plug-in, in this node's results folder."""
    with names_the_node():
        return sent(version_store(results).get(prepare_version(run, results, _onto(board, name)), verify=False))


@ray.remote(max_retries=0, max_calls=1, runtime_env={"env_vars": SLEEPING})
def cell_task(
    cell: Cell, results: Path, version: SentVersion | None, board: Any
) -> tuple[CellResult, Sequence[Record]]:
    """Compute and commit one cell, in this node's results folder."""
    with names_the_node():
        id = folder_of(version_here(version, version_store(results))).name if version else None
        return compute(cell, results, id, _onto(board, cell.name)), CellStore(results).records(cell.id)


def on_ray(cells: Sequence[Cell], results: Path, tell: Tell) -> Iterator[CellEnd]:
    """The executor (`run_grid.Executor`) of this cluster, which runs as many cells at once as its resources allow.

    Connects to Ray, or starts one on this machine, if that has not been done yet. Raises `ConfigError` if a cell fits
    on no node, nor on one that an autoscaler adds meanwhile.
    """
    if not ray.is_initialized():
        ray.init(log_to_driver=True)
    _check_room(cells, tell)
    board = Board.remote()  # type: ignore[attr-defined]
    versions, news, store = _Versions(results, tell, board), BoardReader(tell), CellStore(results)
    waiting: dict[Any, Cell] = {}
    for cell in cells:
        task = cell_task.options(**_resources(cell)).remote(cell, results, versions.of(cell), board)
        waiting[task] = cell
    try:
        while waiting:
            done, _ = ray.wait([*waiting, *versions.waiting], timeout=POLL_SECONDS)
            news.read(ray.get(board.updates.remote()))
            for task in done:
                if task in waiting:
                    yield _end(task, waiting.pop(task), store)
                else:
                    versions.settle(task)
    finally:
        for task in [*waiting, *versions.waiting]:
            ray.cancel(task, force=True)
        ray.kill(board)


class _Versions:
    """The edits of the plug-in: one task for all cells that score the same edit.

    waiting: the running tasks and their names.
    """

    def __init__(self, results: Path, tell: Tell, board: Any) -> None:
        self.waiting: dict[Any, str] = {}
        self._results, self._tell, self._board = results, tell, board
        self._tasks: dict[str, Any] = {}

    def of(self, cell: Cell) -> Any:
        """The future version that a cell scores; None for a cell without one."""
        run = cell.plan.run
        if run is None or cell.plan.measure == "cost":
            return None
        edit = digest([run.knowledge, run.plugin, run.editing])
        if edit not in self._tasks:
            name = f"{cell.row} · {cell.dataset}"
            recipe = recipe_of(run, selected_edits(run.knowledge))
            made = recipe.made_before(version_store(self._results).versions(revisions=0))
            if made is not None:
                self._tasks[edit] = ray.put(sent(made))
                return self._tasks[edit]
            resources = {"num_cpus": run.plugin.num_cpus, "num_gpus": run.plugin.num_gpus}
            task = version_task.options(**resources).remote(run, self._results, name, self._board)
            self._tasks[edit], self.waiting[task] = task, name
        return self._tasks[edit]

    def settle(self, task: Any) -> None:
        """Keep the version, or report a task that failed; Ray raises the error in the cells that wait for it."""
        name = self.waiting.pop(task)
        try:
            version_here(ray.get(task), version_store(self._results))
        except StoreError as error:
            self._tell(name, f"its version stays on the node that made it: {error}")
        except RayError as error:
            self._tell(name, f"the plug-in could not be edited: {_reason(error)}")


def _end(task: Any, cell: Cell, store: CellStore) -> CellEnd:
    try:
        result, records = ray.get(task)
    except RayError as error:
        return CellEnd(cell, None, _reason(error))
    if store.get(cell.id) is None:  # it was computed on a node with another folder
        store.commit(result, records)
    return CellEnd(cell, result)


def _check_room(cells: Sequence[Cell], tell: Tell) -> None:
    """Wait until each cell fits on a node, however busy that is."""
    for cell in cells:
        needs = _resources(cell)
        asked = ModelConfig(model=cell.name, num_cpus=needs["num_cpus"], num_gpus=needs["num_gpus"])
        if not fits_a_node(asked):
            groups = reserve_all({cell.name: asked}, progress=partial(tell, cell.name))
            remove_placement_group(groups[cell.name])


def _resources(cell: Cell) -> dict[str, Any]:
    """The resources of a cell: those of the target, and those of the plug-in if it has one."""
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


def _reason(error: RayError) -> str:
    """`reason_of` the error that the remote task raised."""
    cause: BaseException = error
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    return reason_of(cause)


def _onto(board: Any, task: str) -> Progress:
    """A progress that puts its updates on the board."""
    return now_and_then(lambda update: board.tell.remote(task, update))
