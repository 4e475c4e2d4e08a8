"""Grid files: which methods are compared on which targets over which data, and in which table they are shown.

A grid file is YAML, like the run files of `onceedit_ray.config`, and is typed and checked in the same way. It states
the paper's size; `scales` name smaller ones. This file reads no data, loads no model and does not use Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from onceedit_ray.config import (
    AlignmentConfig,
    EditingConfig,
    EvaluationConfig,
    FusionConfig,
    KnowledgeConfig,
    ModelConfig,
    PluginConfig,
    beside,
    is_grid,
    parse_as,
    read_yaml,
)
from onceedit_ray.errors import ConfigError
from onceedit_ray.location import LocalFile
from onceedit_ray.validation import Strict

ONCEEDIT = "onceedit"
"""The method of a row that edits the plug-in once and fuses; every other method is a baseline's registry name."""

_LIKE = "like"

EditProtocol = Literal["batch", "single"]
Scores = Literal["teacher_forced", "generation", "text_match"]


class TargetConfig(ModelConfig):
    """A target, its settings and its memory.

    preset: which settings of a baseline are used: "auto" for those of its model family, or the name of a preset
    ("default" suits models of some hundred million parameters). settings: by method, the differences from the preset.
    memory_gib: memory that Ray reserves for a cell of this target; 0 reserves none.
    """

    preset: str = "auto"
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    memory_gib: float = Field(0.0, ge=0.0)

    @model_validator(mode="after")
    def _loaded_here(self) -> TargetConfig:
        if not self.is_loaded:
            raise ValueError("methods are compared on models that are loaded here; leave url and engine out")
        return self


class DatasetConfig(KnowledgeConfig):
    """Edits of one data set, and other data that methods may learn from.

    training: edits of its training part, for MEND. unrelated: files of prompts that no edit is about, for the gates.
    """

    training: LocalFile | None = None
    unrelated: tuple[LocalFile, ...] = ()


class RowConfig(Strict):
    """A row of the table: a method with its settings.

    method: "onceedit" or a baseline. settings: for a baseline, the differences from the preset on every target.
    strategy, plugin, editing, fusion: for OnceEdit, the differences from those of the grid.
    """

    label: str = Field(min_length=1)
    method: str = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    strategy: str = "draft"
    plugin: PluginConfig | None = None
    editing: dict[str, Any] = Field(default_factory=dict)
    fusion: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_plugin(cls, values: Any) -> Any:
        return _with_models(values, "plugin")

    @model_validator(mode="after")
    def _settings_of_its_kind(self) -> RowConfig:
        if self.method == ONCEEDIT and self.settings:
            raise ValueError(f"row '{self.label}' gives settings; those of OnceEdit go under editing")
        if self.method != ONCEEDIT and (self.editing or self.plugin or self.fusion):
            raise ValueError(
                f"row '{self.label}' gives editing, plugin or fusion, which only OnceEdit has; give settings"
            )
        if "strategy" in self.fusion:
            raise ValueError(f"row '{self.label}' gives a strategy under fusion; give it as the row's own 'strategy'")
        return self


class TableConfig(Strict):
    """How the cells are shown.

    number: the paper's table that is shown beside this one; None for a table of our own.
    layout: "scores" has a row for each method and reliability, generality, locality and average for each target;
        "averages" has the average for each target; "targets" has a row for each target of one method; "cost" has the
        time of an edit over that of OnceEdit.
    settings: the scorings that are shown, one table each; the first is the scoring of the paper's table.
    score: whether the mean of the targets' averages is shown. frequency: whether the number of edits is shown.
    """

    number: int | None = None
    layout: Literal["scores", "averages", "targets", "cost"] = "scores"
    settings: tuple[Scores, ...] = Field(("teacher_forced", "generation"), min_length=1)
    score: bool = False
    frequency: bool = False


class ScaleConfig(Strict):
    """A size of the grid: the keys given here replace those of the grid."""

    records: int | None = Field(None, ge=1)
    plugin: PluginConfig | None = None
    targets: dict[str, TargetConfig] | None = None
    rows: tuple[RowConfig, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_models(cls, values: Any) -> Any:
        return _with_models(values, "plugin", "targets")


class GridConfig(Strict):
    """A grid: every row on every target over every data set.

    protocol: "batch" makes all edits, each method in its own way (at once or one after another), and then scores them
        all, as the paper does; "single" makes one edit, scores it and undoes it, record by record.
    corpus: files of ordinary text for ROME's and MEMIT's statistics; corpus_texts: how many texts are drawn from them.
    evaluation: what is scored; its strategies come from the rows. scales: named sizes for `--scale`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    table: TableConfig = TableConfig()
    protocol: EditProtocol = "batch"
    records: int | None = Field(None, ge=1)
    datasets: dict[str, DatasetConfig] = Field(min_length=1)
    plugin: PluginConfig
    targets: dict[str, TargetConfig] = Field(min_length=1)
    rows: tuple[RowConfig, ...] = Field(min_length=1)
    editing: EditingConfig = EditingConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    fusion: FusionConfig = FusionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    corpus: tuple[LocalFile, ...] = ()
    corpus_texts: int = Field(4000, ge=1)
    scales: dict[str, ScaleConfig] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_models(cls, values: Any) -> Any:
        return _with_models(values, "plugin", "targets")

    @field_validator("rows")
    @classmethod
    def _rows_apart(cls, rows: tuple[RowConfig, ...]) -> tuple[RowConfig, ...]:
        labels = [row.label for row in rows]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two rows are called '{twice[0]}'; give each a label of its own")
        return rows

    @model_validator(mode="after")
    def _fits_its_layout(self) -> GridConfig:
        methods = [row.method for row in self.rows]
        if self.table.layout == "targets" and len(self.rows) != 1:
            raise ValueError(f"layout 'targets' shows one method and {len(self.rows)} rows are given; give one row")
        if self.table.layout == "cost" and methods.count(ONCEEDIT) != 1:
            raise ValueError("layout 'cost' compares with OnceEdit; give exactly one row with method 'onceedit'")
        if self.protocol == "single" and ONCEEDIT in methods:
            raise ValueError("protocol 'single' edits a target and takes it back; OnceEdit edits none: leave it out")
        return self

    def at_scale(self, name: str | None) -> GridConfig:
        """This grid in one of its `scales`; raises `ConfigError` for an unknown one."""
        if name is None:
            return self
        if name not in self.scales:
            known = ", ".join(self.scales) or "none"
            raise ConfigError(f"{self.name} has no scale '{name}': known are {known}")
        given = self.scales[name].model_dump(exclude_none=True)
        return parse_as(GridConfig, {**self.model_dump(), **given}, f"{self.name} at scale '{name}'")

    def limited(self, dataset: str) -> DatasetConfig:
        """A data set with as many edits as this grid asks for."""
        config = self.datasets[dataset]
        return config if self.records is None else config.model_copy(update={"limit": self.records})


def load_grid(path: Path, scale: str | None = None) -> GridConfig:
    """Read and check a grid file, in one of its scales; raises a `ConfigError` that says where and what to do.

    With `like: paper_table1.yaml`, the keys that are not given are taken from that grid file in the same folder.
    """
    if "knowledge" in read_yaml(path) and not is_grid(path):
        raise ConfigError(f"{path} is a run file; use `onceedit evaluate --config {path}`")
    grid = beside(parse_as(GridConfig, _with_like(path), str(path)), path.parent)
    return grid.at_scale(scale)


def _with_like(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    like = values.pop(_LIKE, None)
    if like is None:
        return values
    other = read_yaml(path.parent / str(like))
    if _LIKE in other:
        raise ConfigError(f"{path} is like {like}, which is like {other[_LIKE]}; name that one")
    return {**other, **values}


def _with_models(values: Any, *keys: str) -> Any:
    """Expand `gemma: gemma-3-270m`, which is short for `gemma: {model: gemma-3-270m}`; likewise for a plug-in."""
    if not isinstance(values, dict):
        return values
    values = dict(values)
    if isinstance(values.get("plugin"), str):
        values["plugin"] = {"model": values["plugin"]}
    if "targets" in keys and isinstance(values.get("targets"), dict):
        values["targets"] = {
            name: {"model": target} if isinstance(target, str) else target for name, target in values["targets"].items()
        }
    return values
