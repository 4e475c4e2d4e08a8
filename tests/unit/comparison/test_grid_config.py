"""Grid files: what is refused, in one line, and what scales and `like` change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from onceedit_ray.comparison.grid_config import load_grid
from onceedit_ray.comparison.paper import paper_table
from onceedit_ray.config import is_grid
from onceedit_ray.errors import ConfigError
from tests.paths import ROOT
from tests.small_grid import FT_L, GRACE, ONCEEDIT, grid, values

GRIDS = [*sorted((ROOT / "configs").glob("paper_table*.yaml")), ROOT / "configs" / "single_edits.yaml"]


def write(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def plain(folder: Path, **changes: Any) -> dict[str, Any]:
    """A grid's settings as YAML can hold them."""
    content = values(folder, ["gpt2"], [FT_L, ONCEEDIT], **changes)
    return yaml.safe_load(yaml.safe_dump(_texts(content)))


def _texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _texts(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_texts(each) for each in value]
    return str(value) if isinstance(value, Path) else value


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", [None, "small"])
def test_every_grid_of_the_repository_loads(path: Path, scale: str | None) -> None:
    config = load_grid(path, scale)
    assert is_grid(path)
    assert config.name == path.stem
    assert (scale == "small") == all("135m" in t.model or "270m" in t.model for t in config.targets.values())


@pytest.mark.parametrize("number", [1, 2, 3, 4, 6, 7, 8])
def test_a_grid_has_the_rows_and_the_size_of_its_table(number: int) -> None:
    config, paper = load_grid(ROOT / "configs" / f"paper_table{number}.yaml"), paper_table(number)
    assert paper is not None and config.table.number == number
    assert len(config.targets) == len(paper.targets)
    theirs = {label for rows in paper.rows.values() for label in rows}
    labels = set(config.targets) if config.table.layout == "targets" else {row.label for row in config.rows}
    assert labels >= {label.lower() for label in theirs} if config.table.layout == "targets" else labels >= theirs


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_run_files_are_told_from_grid_files(path: Path) -> None:
    assert is_grid(path) == (path in GRIDS or path.stem == "top_k")


def test_a_scale_takes_the_place_of_what_it_names_alone(tmp_path: Path) -> None:
    scales = {"tiny": {"records": 2, "plugin": "smollm2-135m", "targets": {"one": "gemma-3-270m"}}}
    config = grid(tmp_path, ["gpt2"], [FT_L, ONCEEDIT], scales=scales)
    tiny = config.at_scale("tiny")
    assert (config.records, tiny.records) == (None, 2)
    assert tiny.limited("zsre").limit == 2 and config.limited("zsre").limit is None
    assert tiny.plugin.model == "smollm2-135m" and list(tiny.targets) == ["one"]
    assert tiny.rows == config.rows and config.at_scale(None) is config
    with pytest.raises(ConfigError, match="no scale 'huge': known are tiny"):
        config.at_scale("huge")


def test_like_takes_what_is_not_given_from_another_file(tmp_path: Path) -> None:
    write(tmp_path / "one.yaml", plain(tmp_path, records=7))
    write(tmp_path / "two.yaml", {"like": "one.yaml", "name": "two", "rows": [GRACE]})
    config = load_grid(tmp_path / "two.yaml")
    assert (config.name, config.records, [row.label for row in config.rows]) == ("two", 7, ["GRACE"])
    write(tmp_path / "three.yaml", {"like": "two.yaml", "name": "three"})
    with pytest.raises(ConfigError, match=r"is like two\.yaml, which is like one\.yaml"):
        load_grid(tmp_path / "three.yaml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"row": []}, "unknown key 'row': did you mean 'rows'?"),
        ({"rows": [FT_L, FT_L]}, "two rows are called 'FT-L'"),
        ({"rows": [{**ONCEEDIT, "settings": {"steps": 1}}]}, "those of OnceEdit go under editing"),
        ({"rows": [{**FT_L, "editing": {"seed": 1}}]}, "which only OnceEdit has; give settings"),
        ({"rows": [{**FT_L, "fusion": {"top_k": 5}}]}, "which only OnceEdit has; give settings"),
        ({"rows": [{**ONCEEDIT, "fusion": {"strategy": "draft"}}]}, "give it as the row's own 'strategy'"),
        ({"protocol": "single"}, "OnceEdit edits none: leave it out"),
        ({"table": {"layout": "targets"}}, "shows one method and 2 rows are given"),
        ({"table": {"layout": "cost"}, "rows": [FT_L]}, "give exactly one row with method 'onceedit'"),
        ({"records": 0}, "greater than or equal to 1"),
        ({"table": {"settings": []}}, "at least 1 item"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "grid.yaml", plain(tmp_path) | changes)
    with pytest.raises(ConfigError) as caught:
        load_grid(path)
    assert said in str(caught.value) and "\n" not in str(caught.value) and str(path) in str(caught.value)
