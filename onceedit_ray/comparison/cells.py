"""The cells of a grid file: one method on one target over one data set, each with an id that hashes all its inputs.

Everything that would make a cell fail later is checked here: names, settings, files, models, and whether the method can
edit a model of this shape. No weights are loaded. Two grids that contain the same cell share it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from onceedit_ray.baselines import BASELINES, Baseline, BaselineSettings, preset
from onceedit_ray.comparison.grid_config import (
    ONCEEDIT,
    DatasetConfig,
    EditProtocol,
    GridConfig,
    RowConfig,
    TargetConfig,
)
from onceedit_ray.config import EvaluationConfig, RunConfig, parse_as
from onceedit_ray.digest import digest
from onceedit_ray.errors import DataError, OnceEditError
from onceedit_ray.fusion.system import check_run
from onceedit_ray.knowledge.content import content_hash
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.prompt_files import read_prompts
from onceedit_ray.knowledge.run_data import general_prompts, selected_edits, unrelated_prompts
from onceedit_ray.knowledge.selection import data_hash, question_key
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.progress import Progress, silent

FORMAT = 1
"""Part of every cell's id. Increase it when the computation of a cell, or its storage format, changes."""

Measure = Literal["scores", "cost"]

# Relative costs of the methods, used only for the order of cells: cheap ones first, unknown ones in the middle.
_COST = {ONCEEDIT: 1, "ft-l": 1, "grace": 2, "wise": 4, "defer": 4, "memit": 6, "rome": 7, "mend": 9}


@dataclass(frozen=True)
class Plan:
    """All inputs of a cell; small, so that it can be sent to the process that computes the cell.

    method, settings: a baseline with all its settings, or `ONCEEDIT` with `run`, the run file of its edit.
    limit: the number of edits; general: the number of general prompts that are scored for drift.
    """

    method: str
    measure: Measure
    protocol: EditProtocol
    target_name: str
    target: TargetConfig
    dataset: DatasetConfig
    evaluation: EvaluationConfig
    corpus: tuple[Path, ...] = ()
    corpus_texts: int = 0
    settings: Mapping[str, Any] | None = None
    run: RunConfig | None = None

    def baseline(self) -> Baseline:
        """The method with its settings."""
        method: Any = BASELINES.get(self.method)
        return method(method.Settings(**(self.settings or {})))


@dataclass(frozen=True)
class Cell:
    """A cell of a grid: its row, target and data set, its id and its plan. cost: used only for the order."""

    id: str
    row: str
    target: str
    dataset: str
    plan: Plan
    cost: float = 0.0

    @property
    def name(self) -> str:
        """Its name in progress lines."""
        return f"{self.row} · {self.target} · {self.dataset}"


@dataclass(frozen=True)
class Sources:
    """The contents of one data set: edits, and prompts that are about none of them."""

    config: DatasetConfig

    @cached_property
    def edits(self) -> list[Edit]:
        """The edits that are made and scored."""
        return selected_edits(self.config)

    @cached_property
    def unrelated(self) -> list[str]:
        """Prompts that no edit is about."""
        taken = {question_key(edit.prompt) for edit in self.edits}
        pools = unrelated_prompts(self.config.unrelated)
        return [prompt for pool in pools for prompt in pool if question_key(prompt) not in taken]


def corpus_texts(files: Sequence[Path], count: int) -> list[str]:
    """At most `count` texts, drawn evenly from all files; every call returns the same texts."""
    texts = [text for file in files for text in read_prompts(file)]
    return texts if len(texts) <= count else random.Random(0).sample(texts, count)


def cells_of(config: GridConfig, progress: Progress = silent) -> list[Cell]:
    """The cells of a grid, row by row.

    Raises:
        ConfigError: an unknown method, setting or preset. DataError: a file that does not exist or has no edits.
        ModelError: a model that is not available, or has a shape that a row's method cannot edit.
    """
    return _Expansion(config, progress).cells()


def places(config: GridConfig) -> Iterator[tuple[RowConfig, str, str, TargetConfig]]:
    """The place of each cell, row by row: row, data set, name of the target, and target.

    All targets are given, except that the cost of an edit that serves all targets is measured on the first one only.
    """
    targets = list(config.targets.items())
    for row in config.rows:
        once = config.table.layout == "cost" and row.method == ONCEEDIT
        for dataset in config.datasets:
            for name, target in targets[:1] if once else targets:
                yield row, dataset, name, target


def bare_plan(config: GridConfig, row: RowConfig, dataset: str, name: str, target: TargetConfig) -> Plan:
    """A cell's plan from the grid file alone: without a baseline's settings or OnceEdit's run file."""
    strategy = row.strategy if row.method == ONCEEDIT else row.method
    return Plan(
        method=row.method,
        measure="cost" if config.table.layout == "cost" else "scores",
        protocol=config.protocol,
        target_name=name,
        target=target,
        dataset=config.limited(dataset),
        evaluation=config.evaluation.model_copy(update={"strategies": (strategy,)}),
    )


def cheapest_first(cells: Sequence[Cell]) -> list[Cell]:
    """The order in which cells are run."""
    return sorted(cells, key=lambda cell: cell.cost)


class _Expansion:
    def __init__(self, config: GridConfig, progress: Progress) -> None:
        self._config = config
        self._progress = progress
        self._folders: dict[str, ModelFolder] = {}
        self._shapes: dict[str, PreTrainedModel] = {}
        self._checked: set[str] = set()
        self._hashes: dict[Path, str] = {}

    def cells(self) -> list[Cell]:
        config = self._config
        sources = {name: Sources(config.limited(name)) for name in config.datasets}
        for row in config.rows:
            if row.method != ONCEEDIT:
                BASELINES.get(row.method)
        found = []
        for row, dataset, name, target in places(config):
            plan = self._plan(row, name, target, dataset)
            cost = self._cost(row.method, target)
            found.append(Cell(self._id(plan, sources[dataset]), row.label, name, dataset, plan, cost))
        return found

    def _plan(self, row: RowConfig, name: str, target: TargetConfig, dataset: str) -> Plan:
        config, plan = self._config, bare_plan(self._config, row, dataset, name, target)
        if row.method == ONCEEDIT:
            return replace(plan, run=self._run(row, name, target, dataset, plan.evaluation))
        settings = self._settings(row, name, target)
        return replace(plan, settings=settings, corpus=config.corpus, corpus_texts=config.corpus_texts)

    def _run(
        self, row: RowConfig, name: str, target: TargetConfig, dataset: str, evaluation: EvaluationConfig
    ) -> RunConfig:
        """The run file with OnceEdit's edit and this one target; the edit is the same for every target."""
        config = self._config
        data = config.limited(dataset)
        editing = {**config.editing.model_dump(), "unrelated": data.unrelated, **row.editing}
        values = {
            "name": dataset,
            "knowledge": data.model_copy(update={"training": None, "unrelated": ()}),
            "plugin": row.plugin or config.plugin,
            "targets": {name: target},
            "editing": editing,
            "alignment": config.alignment,
            "fusion": {**config.fusion.model_dump(), **row.fusion, "strategy": row.strategy},
            "evaluation": evaluation,
        }
        run = parse_as(RunConfig, values, f"row '{row.label}'")
        if run.model_dump_json() not in self._checked:
            check_run(run, self._progress)
            self._checked.add(run.model_dump_json())
        return run

    def _settings(self, row: RowConfig, name: str, target: TargetConfig) -> dict[str, Any]:
        """A baseline's settings on a target, checked against the model's shape."""
        shape = self._shape(target)
        method: Any = BASELINES.get(row.method)
        where = f"row '{row.label}' on target '{name}'"
        if target.preset == "auto":
            chosen: BaselineSettings = preset(row.method, shape)
        else:
            chosen = method.presets.get(target.preset, method.presets["default"])
        values = {**chosen.model_dump(), **target.settings.get(row.method, {}), **row.settings}
        settings: BaselineSettings = parse_as(method.Settings, values, where)
        try:
            method(settings).check(shape)
        except OnceEditError as error:
            raise type(error)(f"{where}: {error}") from None
        dumped: dict[str, Any] = settings.model_dump(mode="json")
        return dumped

    def _shape(self, target: TargetConfig) -> PreTrainedModel:
        """The target without weights."""
        folder = self._folder(target.model)
        if folder.digest not in self._shapes:
            config = AutoConfig.from_pretrained(str(folder.path), trust_remote_code=False, local_files_only=True)
            with torch.device("meta"):
                self._shapes[folder.digest] = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return self._shapes[folder.digest]

    def _folder(self, reference: str) -> ModelFolder:
        if reference not in self._folders:
            self._folders[reference] = resolve(reference, self._progress)
        return self._folders[reference]

    def _id(self, plan: Plan, source: Sources) -> str:
        """A hash of all inputs of the cell, without resources and names."""
        evaluation = plan.evaluation
        parts: list[Any] = [
            FORMAT,
            plan.method,
            plan.measure,
            plan.protocol,
            self._folder(plan.target.model).digest,
            plan.target.dtype,
            data_hash(source.edits),
            evaluation.model_dump(mode="json", exclude={"general", "general_limit", "gate_shapes", "concurrency"}),
            general_prompts(evaluation.general, evaluation.general_limit)[: evaluation.drift_limit],
        ]
        if plan.run is not None:
            parts += [
                self._folder(plan.run.plugin.model).digest,
                plan.run.plugin.view,
                plan.run.plugin.dtype,
                plan.run.editing.model_dump(mode="json", exclude={"unrelated"}),
                plan.run.alignment.model_dump(mode="json"),
                plan.run.fusion.model_dump(mode="json"),
            ]
        else:
            files = [*plan.corpus, *([plan.dataset.training] if plan.dataset.training else [])]
            parts += [dict(plan.settings or {}), plan.corpus_texts, [self._content(file) for file in files]]
        parts.append([self._content(file) for file in plan.dataset.unrelated])
        if plan.measure == "cost":  # two targets with the same model are timed separately
            parts.append([plan.target_name, plan.target.threads, plan.target.num_gpus])
        return digest(parts)[:16]

    def _content(self, file: Path) -> str:
        """A hash of a file's content; its path does not matter."""
        if file not in self._hashes:
            if not file.exists():
                raise DataError(
                    f"{file}: no such file to learn from; docs/compare-methods.md says what suits, and where"
                )
            self._hashes[file] = content_hash(file)
        return self._hashes[file]

    def _cost(self, method: str, target: TargetConfig) -> float:
        parameters = sum(parameter.numel() for parameter in self._shape(target).parameters())
        return _COST.get(method, 3) * parameters**0.5
