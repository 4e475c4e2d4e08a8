"""Cells and their ids: the inputs that change an id, and the errors that stop a grid before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from onceedit_ray.comparison.cells import Cell, cells_of, cheapest_first, corpus_texts
from onceedit_ray.errors import ConfigError, DataError, ModelError
from onceedit_ray.knowledge.content import PUBLISHED
from onceedit_ray.models.loading import load_tokenizer
from tests.baseline_models import mixture_of_experts
from tests.paths import DATA
from tests.small_grid import FT_L, GRACE, ONCEEDIT, grid, write_files
from tests.small_system import write

TARGETS = ["gpt2", "mistral"]
ROWS = [FT_L, GRACE, ONCEEDIT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    write_files(folder, ["llama", *TARGETS])
    write(mixture_of_experts(), load_tokenizer(folder / "llama"), folder / "experts")
    return folder


def cells(folder: Path, methods: list[dict[str, Any]] = ROWS, **changes: Any) -> list[Cell]:
    return cells_of(grid(folder, changes.pop("on", TARGETS), methods, **changes))


def test_a_cell_for_every_row_target_and_data_set(folder: Path) -> None:
    found = cells(folder)
    assert [(cell.row, cell.target) for cell in found] == [(row["label"], name) for row in ROWS for name in TARGETS]
    assert len({cell.id for cell in found}) == len(found)
    assert [cell.plan.run is None for cell in found] == [True] * 4 + [False] * 2


def test_a_row_may_fuse_otherwise_than_the_grid(folder: Path) -> None:
    rows = [{**ONCEEDIT, "label": f"K = {k}", "fusion": {"top_k": k}} for k in (5, 20)]
    found = cells(folder, rows, on=["gpt2"])
    assert [cell.plan.run.fusion.top_k for cell in found if cell.plan.run] == [5, 20]
    assert {cell.plan.run.fusion.strategy for cell in found if cell.plan.run} == {"draft"}
    assert found[0].id != found[1].id


def test_the_order_is_by_cost(folder: Path) -> None:
    costs = [cell.cost for cell in cheapest_first(cells(folder))]
    assert costs == sorted(costs) and costs[0] < costs[-1]


def test_names_resources_and_the_table_are_no_part_of_an_id(folder: Path) -> None:
    before = [cell.id for cell in cells(folder)]
    target = {"threads": 4, "num_cpus": 2.0, "memory_gib": 1.0}
    targets = {f"{name}-again": {"model": f"local:{folder / name}", **target} for name in TARGETS}
    rows = [{**row, "label": f"{row['label']} again"} for row in ROWS]
    again = cells(folder, rows, name="other", table={"layout": "averages"}, targets=targets)
    assert [cell.id for cell in again] == before


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": [{**FT_L, "settings": {"steps": 4}}]},
        {"protocol": "single"},
        {"records": 2},
        {"evaluation": {"settings": ["teacher_forced"], "drift_limit": 2, "general_limit": 2, "drift_tokens": 4}},
        {"evaluation": {"drift_limit": 1, "general_limit": 2, "drift_tokens": 4}},
        {"targets": {"gpt2": {"model": "MISTRAL"}}},
        {"targets": {"gpt2": {"model": "GPT2", "dtype": "bfloat16"}}},
        {"targets": {"gpt2": {"model": "GPT2", "settings": {"ft-l": {"bound": 0.5}}}}},
        {"corpus_texts": 3},
        {"table": {"layout": "cost"}, "rows": [FT_L, ONCEEDIT]},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_whatever_changes_the_work_changes_the_id(folder: Path, changes: dict[str, Any]) -> None:
    (before,) = cells(folder, [FT_L], on=["gpt2"])
    changes = dict(changes)
    for name, target in changes.get("targets", {}).items():
        model = {"MISTRAL": folder / "mistral", "GPT2": folder / "gpt2"}[target["model"]]
        changes["targets"] = {name: {**target, "model": f"local:{model}"}}
    rows = changes.pop("rows", [FT_L])
    assert cells(folder, rows, on=["gpt2"], **changes)[0].id != before.id


@pytest.mark.parametrize("changes", [{"strategy": "calibrated"}, {"editing": {"weight_loss": 0.0}}])
def test_a_row_of_onceedit_has_an_id_of_its_own(folder: Path, changes: dict[str, Any]) -> None:
    one, other = cells(folder, [ONCEEDIT, {**ONCEEDIT, "label": "other", **changes}], on=["gpt2"])
    assert one.id != other.id
    assert (one.plan.run, other.plan.run) != (None, None)
    edits = [cell.plan.run.editing for cell in (one, other) if cell.plan.run]
    assert (edits[0] == edits[1]) == ("strategy" in changes)


def test_the_content_of_a_file_counts_and_not_its_place(folder: Path, tmp_path: Path) -> None:
    (before,) = cells(folder, [FT_L], on=["gpt2"])
    copy = tmp_path / "elsewhere.txt"
    copy.write_bytes((folder / "texts.txt").read_bytes())
    (moved,) = cells(folder, [FT_L], on=["gpt2"], corpus=[copy])
    copy.write_text("Something else.\n", encoding="utf-8")
    (changed,) = cells(folder, [FT_L], on=["gpt2"], corpus=[copy])
    assert moved.id == before.id != changed.id


def test_a_published_file_counts_the_same_as_json_and_as_parquet(folder: Path, tmp_path: Path) -> None:
    """The repository's own data: an id made from the JSON file, and the one made from the Parquet file."""
    listed = json.loads((DATA / PUBLISHED).read_text(encoding="utf-8"))["zsre_edit.parquet"]
    published = tmp_path / listed["made_from"]
    records = pq.read_table(DATA / "zsre_edit.parquet").to_pylist()
    published.write_text(json.dumps(records, indent=0, ensure_ascii=False), encoding="utf-8")

    def ids(file: Path) -> list[str]:
        dataset = {"path": file, "on_conflict": "first", "limit": 3, "training": file, "unrelated": [file]}
        return [cell.id for cell in cells(folder, on=["gpt2"], datasets={"zsre": dataset}, corpus=[file])]

    assert ids(DATA / "zsre_edit.parquet") == ids(published)


def test_what_an_edit_of_the_plugin_costs_is_measured_once(folder: Path) -> None:
    found = cells(folder, [FT_L, ONCEEDIT], table={"layout": "cost"})
    assert [(cell.row, cell.target) for cell in found] == [("FT-L", "gpt2"), ("FT-L", "mistral"), ("OnceEdit", "gpt2")]
    one = {"model": f"local:{folder / 'gpt2'}"}
    twice = cells(folder, [FT_L, ONCEEDIT], table={"layout": "cost"}, targets={"one": one, "again": one})
    assert twice[0].id != twice[1].id, "one model under two names is timed twice"


def test_a_shape_that_a_method_cannot_edit_is_refused_without_loading_weights(folder: Path) -> None:
    experts = {"experts": {"model": f"local:{folder / 'experts'}"}}
    with pytest.raises(ModelError, match=r"row 'FT-L' on target 'experts': .*mixture of experts") as caught:
        cells(folder, [FT_L], targets=experts)
    assert "\n" not in str(caught.value)
    assert len(cells(folder, [ONCEEDIT], targets=experts)) == 1, "OnceEdit edits no target"


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"rows": [{"label": "x", "method": "romme"}]}, ConfigError, "did you mean 'rome'?"),
        (
            {"rows": [{**FT_L, "settings": {"stepps": 1}}]},
            ConfigError,
            "row 'FT-L' on target 'gpt2': unknown key 'stepps'",
        ),
        ({"rows": [{**FT_L, "settings": {"steps": 0}}]}, ConfigError, "'steps': input should be greater"),
        ({"rows": [{**ONCEEDIT, "strategy": "drafft"}]}, ConfigError, "did you mean 'draft'?"),
        (
            {"rows": [{**ONCEEDIT, "editing": {"lambda": 1}}]},
            ConfigError,
            "'OnceEdit': unknown key 'editing.lambda'",
        ),
        ({"corpus": [Path("nowhere.txt")]}, DataError, "nowhere.txt: no such file to learn from"),
        ({"datasets": {"zsre": {"path": "nowhere.jsonl"}}}, DataError, "nowhere.jsonl"),
    ],
)
def test_bad_input_stops_a_grid_before_any_work(
    folder: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    rows = changes.get("rows", [FT_L])
    with pytest.raises(error) as caught:
        cells(folder, rows, on=["gpt2"], **{key: value for key, value in changes.items() if key != "rows"})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_corpus_is_a_sample_that_stays_the_same(folder: Path) -> None:
    texts = corpus_texts([folder / "texts.txt"], 5)
    assert len(texts) == 5 and texts == corpus_texts([folder / "texts.txt"], 5)
    assert len(corpus_texts([folder / "texts.txt"], 10_000)) > 5
