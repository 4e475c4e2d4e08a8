"""Averages from hand-made records, and the reports made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onceedit_ray.errors import StoreError
from onceedit_ray.evaluation.figures import draw_gate, draw_scores
from onceedit_ray.evaluation.machine import describe_machine, package_versions
from onceedit_ray.evaluation.records import GateRecord, Property, Record, Setting
from onceedit_ray.evaluation.report import ReportMeta, before_after_table, write_report
from onceedit_ray.evaluation.summary import strategies_of, summarise
from onceedit_ray.evaluation.tables import markdown_text

PNG = b"\x89PNG\r\n\x1a\n"
META = ReportMeta(
    run="demo",
    dataset="two edits",
    models={"gemma": "gemma-3-270m"},
    machine="2 cores",
    duration_seconds=75.0,
    command="make demo",
)


def record(
    index: int,
    prop: Property,
    score: float,
    match: float | None = None,
    strategy: str = "draft",
    setting: Setting = "generation",
    **change: Any,
) -> Record:
    values: dict[str, Any] = {
        "run": "demo",
        "target": "gemma",
        "prompt": f"{prop} {index}?",
        "shape": "raw",
        "expected": f"new {index}",
        "output": f" new {index}",
        "unedited_output": f" old {index}",
        "target_passes": 2,
        "new_tokens": 6,
        "seconds": 0.5,
    }
    values |= change
    return Record(
        record=index, strategy=strategy, setting=setting, property=prop, score=score, text_match=match, **values
    )


RECORDS = [
    record(0, "reliability", 1.0, 1.0),
    record(1, "reliability", 0.5, 0.0, output=" news"),
    # Three rephrasings of one edit weigh as much as the one of the other.
    record(0, "generality", 0.0, 0.0),
    record(0, "generality", 0.0, 0.0),
    record(0, "generality", 0.75, 1.0),
    record(1, "generality", 0.75, 1.0),
    record(0, "locality", 1.0, 1.0, output=" old 0", alone=True),
    record(1, "locality", 1.0, 1.0, output=" old 1", alone=True),
    record(0, "portability", 0.25, 0.0),
    record(0, "reliability", 0.9, setting="teacher_forced"),
    record(1, "reliability", 0.7, setting="teacher_forced"),
    record(0, "general", 1.0, 1.0, alone=True),
    record(1, "general", 0.0, 0.0),
    record(2, "general", 1.0, setting="teacher_forced"),  # drift is about generated output
    record(0, "general", 1.0, 1.0, strategy="unedited"),  # the reference has no drift of its own
    record(0, "reliability", 0.25, 0.0, strategy="unedited", output=" old 0"),
    record(1, "reliability", 0.0, 0.0, strategy="unedited", output=" old 1"),
]
GATE = [
    GateRecord("edit", "raw", "a", 1.0),
    GateRecord("edit", "raw", "b", 0.5),
    GateRecord("general", "raw", "c", 0.0),
    GateRecord("general", "qa", "c", 0.75),
]


RESTRICTED = record(0, "reliability", 1.0, 1.0, strategy="deepen", restricted="512 candidates.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one whole run."""
    records = [*RECORDS, RESTRICTED]
    return write_report(tmp_path_factory.mktemp("results"), summary_of(records), records, GATE, META).parent


def summary_of(records: list[Record]) -> dict[str, Any]:
    return summarise(records, GATE, threshold=0.6, plugin="smol", edits=2, edit_seconds=12.5)


def test_means_are_within_records_then_over_records_then_over_properties() -> None:
    draft = summary_of(RECORDS)["targets"]["gemma"]["draft"]
    assert draft["generation"] == {
        "reliability": 0.75,
        "generality": 0.5,  # (0.25 + 0.75) / 2, where a mean over prompts would be 0.375
        "locality": 1.0,
        "average": 0.75,
    }
    assert draft["text_match"] == {
        "reliability": 0.5,
        "generality": pytest.approx(2 / 3),
        "locality": 1.0,
        "average": pytest.approx((1 / 2 + 2 / 3 + 1) / 3),
    }
    assert draft["portability"] == {"teacher_forced": None, "generation": 0.25, "text_match": 0.0}


def test_a_property_without_records_is_null_and_left_out_of_the_average() -> None:
    draft = summary_of(RECORDS)["targets"]["gemma"]["draft"]
    assert draft["teacher_forced"] == {
        "reliability": pytest.approx(0.8),
        "generality": None,
        "locality": None,
        "average": pytest.approx(0.8),
    }


def test_the_summary_has_the_agreed_shape() -> None:
    summary = summary_of(RECORDS)
    assert {key: summary[key] for key in ("plugin", "edits", "edit_seconds")} == {
        "plugin": "smol",
        "edits": 2,
        "edit_seconds": 12.5,
    }
    assert list(summary["targets"]["gemma"]) == ["unedited", "draft"]
    assert strategies_of(summary) == ["draft"]
    assert summary["gate"] == {
        "threshold": 0.6,
        "shapes": {
            "raw": {
                "edit": {"mean": 0.75, "share_above": 0.5, "n": 2},
                "general": {"mean": 0.0, "share_above": 0.0, "n": 1},
            },
            "qa": {"general": {"mean": 0.75, "share_above": 1.0, "n": 1}},
        },
    }
    assert summary["drift"] == {"gemma": {"draft": {"identical": 0.5, "n": 2}}}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_cost_counts_generated_answers_to_the_edits_only() -> None:
    cost = summary_of(RECORDS)["targets"]["gemma"]["draft"]["cost"]
    assert cost["answers"] == 9
    assert cost["tokens_per_target_pass"] == 3.0
    assert cost["plugin_passes_per_answer"] == cost["plugin_passes"] / 9
    assert cost["alone"] == pytest.approx(2 / 9)
    no_passes = summary_of([record(0, "reliability", 1.0, 1.0, target_passes=0, seconds=0.0)])
    assert no_passes["targets"]["gemma"]["draft"]["cost"]["tokens_per_target_pass"] is None


def test_a_time_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="edit_seconds is nan"):
        summarise([], [], 0.5, "smol", 0, float("nan"))


def test_the_folder_holds_report_summary_and_figures(folder: Path) -> None:
    assert {entry.name for entry in folder.iterdir()} == {"gate.png", "report.md", "scores.png", "summary.json"}
    for name in ("scores.png", "gate.png"):
        assert (folder / name).read_bytes().startswith(PNG)
        assert f"({name})" in (folder / "report.md").read_text(encoding="utf-8")
    written = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert written.pop("meta")["command"] == "make demo"
    assert written == summary_of([*RECORDS, RESTRICTED])


def test_the_report_says_what_was_found(folder: Path) -> None:
    lines = (folder / "report.md").read_text(encoding="utf-8").splitlines()
    assert "| gemma | draft | 0.750 | 0.500 | 1.000 | 0.750 | 0.250 |" in lines
    assert "| edited prompts: the new answer | 0.000 | 0.500 | 1.000 |" in lines
    assert "| raw | edited prompts | 2 | 0.750 | 0.500 | 1 |" in lines
    assert "| gemma | draft | 0.500 | 2 |" in lines
    assert "| edited prompt | reliability 1? | new 1 | old 1 | news | no |" in lines
    assert "| unrelated | locality 0? | (as before) | old 0 | old 0 | yes |" in lines
    assert "- gemma, deepen: 512 candidates." in lines
    assert "- gemma, unedited: no generality or locality was scored (–); the average is over the others." in lines
    assert "| whole run took | 1 min 15 s |" in lines


def test_no_gate_readings_means_no_gate_section(tmp_path: Path) -> None:
    summary = summarise(RECORDS, [], 0.5, "smol", 2, 1.0)
    report = write_report(tmp_path, summary, RECORDS, [], META)
    assert "gate.png" not in report.read_text(encoding="utf-8")
    assert not (tmp_path / "gate.png").exists()


def test_a_number_that_is_not_finite_writes_nothing(tmp_path: Path) -> None:
    summary = summary_of(RECORDS) | {"edit_seconds": float("inf")}
    with pytest.raises(ValueError, match="Out of range"):
        write_report(tmp_path, summary, RECORDS, GATE, META)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a|b", r"a\|b"),
        (" line\nbreak\r", r"line\\nbreak"),
        ("<b>&lt;", "&lt;b&gt;&amp;lt;"),
        ("*bold* `code` [link](x)", r"\*bold\* \`code\` \[link\](x)"),
        ("snake_case _soft_", r"snake_case \_soft\_"),
        ("\x1b[31mred", r"\\x1b\[31mred"),
        ("back\\slash", r"back\\slash"),
        ("東京", "東京"),
    ],
)
def test_text_stays_inside_its_markdown_cell(text: str, cell: str) -> None:
    assert markdown_text(text) == cell


def test_long_text_is_cut_before_it_is_escaped() -> None:
    assert markdown_text("|" * 10, limit=4) == r"\|\|\|…"


def test_hostile_answers_do_not_break_the_tables(tmp_path: Path) -> None:
    hostile = [record(0, "reliability", 1.0, 1.0, output="x | y\n| z |\n\n# title", prompt="a\n\n---\n| b")]
    report = write_report(tmp_path, summary_of(hostile), hostile, [], META).read_text(encoding="utf-8")
    row = next(line for line in report.splitlines() if "title" in line)
    assert row.replace(r"\|", "").count("|") == 7


def test_the_terminal_table_is_aligned_and_plain() -> None:
    records = [*RECORDS, record(2, "reliability", 1.0, 1.0, output="\x1b[2J東京" * 9)]
    text = before_after_table(summary_of(records), records, n=3)
    lines = text.splitlines()
    assert "\x1b" not in text
    assert all(line.isprintable() for line in lines)
    before, after = (line for line in lines if line.startswith(("edited prompts", "average")))
    assert before.split()[-2:] == ["0.000", "0.667"]
    assert len(before) == len(after)
    assert "reliability 0?" in text and "locality 1?" in text
    assert "generality 1?" in text and "generality 2?" not in text
    assert before_after_table(summary_of(records), records, n=1).count("reliability") == 1


def test_wide_characters_take_two_columns() -> None:
    records = [record(0, "reliability", 1.0, 1.0, expected="東京"), record(1, "reliability", 1.0, 1.0, expected="Rome")]
    wide, narrow = before_after_table(summary_of(records), records, n=2).splitlines()[-2:]
    assert wide.index("old 0") + 2 == narrow.index("old 1")


def test_without_generation_the_terminal_shows_teacher_forced_scores() -> None:
    records = [record(0, "reliability", 0.5, setting="teacher_forced")]
    text = before_after_table(summary_of(records), records, n=2)
    assert text.startswith("gemma: teacher-forced")
    assert "0.500" in text


@pytest.mark.parametrize("strategies", [("draft",), ("draft", "calibrated", "onceedit", "deepen+dw", "deepen")])
def test_score_figures_for_one_and_for_many_strategies(tmp_path: Path, strategies: tuple[str, ...]) -> None:
    records = [record(0, "reliability", 0.5, 1.0, strategy=name) for name in ("unedited", *strategies)]
    draw_scores(tmp_path / "scores.png", summary_of(records))
    assert (tmp_path / "scores.png").read_bytes().startswith(PNG)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no scores"):
        draw_scores(tmp_path / "scores.png", summary_of([]))
    with pytest.raises(ValueError, match="no gate readings"):
        draw_gate(tmp_path / "gate.png", [], 0.5)


def test_shapes_with_the_same_readings_share_a_column(tmp_path: Path) -> None:
    def wide(weights: dict[str, float], name: str) -> int:
        records = [GateRecord("edit", shape, "Who?", weight) for shape, weight in weights.items()]
        draw_gate(tmp_path / name, records, 0.5)
        return int.from_bytes((tmp_path / name).read_bytes()[16:20])  # the width in a PNG's header

    one = wide({"raw": 0.9}, "one.png")
    assert wide({"raw": 0.9, "qa": 0.9, "template": 0.9, "chat": 0.9}, "same.png") == one
    assert wide({"raw": 0.9, "qa": 0.9, "template": 0.9, "chat": 0.1}, "two.png") > one


def test_a_figure_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*gate\.png"):
        draw_gate(tmp_path / "file" / "gate.png", GATE, 0.5)


def test_the_machine_is_one_line_with_versions() -> None:
    line = describe_machine()
    assert "\n" not in line
    assert "core" in line and "Python 3." in line
    assert f"torch {package_versions()['torch']}" in line
    assert f"ray {package_versions()['ray']}" in line
