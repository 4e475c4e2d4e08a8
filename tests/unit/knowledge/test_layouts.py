"""KnowEdit, MQuAKE and QAEdit, and files with blanks, nulls or the index column of pandas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import read_edits
from tests.edit_records import EDIT, FLAT, ORIGINAL, PLAIN, ZSRE, complaint, write_json, write_lines

KNOWEDIT = {
    "subject": "Acme",
    "prompt": "Who leads Acme?",
    "target_new": "Ada",
    "ground_truth": ["Bob", "Robert"],
    "rephrase_prompt": "Acme's head is",
    "locality": {"Relation_Specificity": [{"prompt": "Who leads Bcme?", "ground_truth": [["Cleo", "C."]]}]},
    "portability": {
        "Reasoning": [{"prompt": "Where was Acme's head born?", "ground_truth": ["London"]}],
        "Subject_Aliasing": [],
    },
}
MQUAKE = {
    "case_id": 1,
    "requested_rewrite": [
        ORIGINAL["requested_rewrite"] | {"question": "Who leads Acme?"},  # type: ignore[operator]
        {"prompt": "{} was born in", "target_new": {"str": "London"}, "target_true": {"str": "Rome"}, "subject": "Ada"},
    ],
    "questions": ["Where was Acme's head born?", "In which city was the head of Acme born?"],
    "answer": "Rome",
    "answer_alias": ["Roma"],
    "new_answer": "London",
    "new_answer_alias": [],
    "single_hops": [{"question": "q", "cloze": "c", "answer": "a", "answer_alias": []}],
    "new_single_hops": [],
    "orig": {"triples": [["Q1", "P1", "Q2"]]},
}
QAEDIT = {
    "id": 1,
    "source": "NQ",
    "prompt": "Who leads Acme?",
    "target": "Ada",
    "subject": "Acme",
    "rephrase": "Acme's head is",
    "locality": [{"loc": "Who leads Bcme?", "loc_ans": "Cleo"}, {"loc": "", "loc_ans": "x"}],
}


@pytest.mark.parametrize("format", ["auto", "knowedit"])
def test_knowedit(tmp_path: Path, format: str) -> None:
    """The whole record is read; a file whose later records alone show the layout is known by them."""
    bare = {"prompt": "Q?", "target_new": "A", "subject": "", "ground_truth": None, "locality": {}}
    biography = {"text": "This is a text about Ada.", "labels": "She leads Acme.", "concept": "Ada"}
    first, second = read_edits(write_json(tmp_path / "k.json", [bare, KNOWEDIT]), format)
    assert (first, second) == (
        Edit(prompt="Q?", target_new="A"),
        EDIT.model_copy(update={"rephrasings": ("Acme's head is",)}),
    )
    (written,) = read_edits(write_json(tmp_path / "w.json", [biography]), format)
    assert written == Edit(prompt="This is a text about Ada.", target_new="She leads Acme.", subject="Ada")


def test_knowedit_names_an_unknown_kind_of_probe(tmp_path: Path) -> None:
    record = KNOWEDIT | {"locality": {"Relation_Specifity": []}}
    assert "'locality.Relation_Specifity': unknown field" in complaint(write_json(tmp_path / "k.json", [record]))
    record = KNOWEDIT | {"locality": {"Forgetfulness": [{"prompt": "q", "answer": "a"}]}}
    assert "'locality.Forgetfulness[0].answer'" in complaint(write_json(tmp_path / "k.json", [record]))


@pytest.mark.parametrize("format", ["auto", "mquake"])
def test_mquake_gives_every_edit_of_a_case_and_asks_for_its_end_once(tmp_path: Path, format: str) -> None:
    edits = read_edits(write_json(tmp_path / "m.json", [MQUAKE]), format)
    assert edits == [
        Edit(
            prompt="Who leads Acme?",
            target_new="Ada",
            subject="Acme",
            ground_truth="Bob",
            rephrasings=("Acme is led by",),
            portability=tuple(Probe(prompt=question, answer="London") for question in MQUAKE["questions"]),  # type: ignore[attr-defined]
        ),
        Edit(prompt="Ada was born in", target_new="London", subject="Ada", ground_truth="Rome"),
    ]


@pytest.mark.parametrize("format", ["auto", "qaedit"])
def test_qaedit(tmp_path: Path, format: str) -> None:
    (edit,) = read_edits(write_json(tmp_path / "q.json", [QAEDIT]), format)
    expected = {"ground_truth": "", "rephrasings": ("Acme's head is",), "portability": ()}
    assert edit == EDIT.model_copy(update=expected)


def test_records_without_probes_by_kind_stay_what_they_were(tmp_path: Path) -> None:
    """KnowEdit shares its fields' names with CounterFact and the plain format."""
    assert read_edits(write_json(tmp_path / "p.json", [PLAIN])) == [EDIT]
    assert read_edits(write_json(tmp_path / "f.json", [FLAT]))[0].rephrasings == ("At the head of Acme is",)


def test_probes_are_paired_by_their_place(tmp_path: Path) -> None:
    """A blank prompt is dropped together with its answer; a blank answer is kept."""
    lists = {"locality_prompt": ["A is", "", "C is", "D is"], "locality_ground_truth": ["1", "2", "", None]}
    (edit,) = read_edits(write_json(tmp_path / "c.json", [FLAT | lists]))
    assert [(probe.prompt, probe.answer) for probe in edit.locality] == [("A is", "1"), ("C is", ""), ("D is", "")]


def test_a_blank_locality_answer_does_not_refuse_the_file(tmp_path: Path) -> None:
    (edit,) = read_edits(write_json(tmp_path / "z.json", [ZSRE | {"loc_ans": ""}]))
    assert edit.locality == (Probe(prompt="who leads bcme", answer=""),)


def test_blank_rephrasings_and_probes_are_left_out_of_plain_records(tmp_path: Path) -> None:
    blank = PLAIN | {
        "rephrasings": ["", " \t", None, "Acme's head is"],
        "locality": [{"prompt": " ", "answer": "x"}, {"prompt": "Who?", "answer": ""}],
    }
    expected = (("Acme's head is",), (Probe(prompt="Who?", answer=""),))
    for path in (write_lines(tmp_path / "e.jsonl", blank), tmp_path / "e.parquet"):
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist([blank]), path)
        (edit,) = read_edits(path)
        assert (edit.rephrasings, edit.locality) == expected


def test_the_index_that_pandas_keeps_is_no_field(tmp_path: Path) -> None:
    """Named in the file's pandas metadata, or left by `datasets` under pandas' own name."""
    table = pa.table({"prompt": ["Q?"], "target_new": ["A"], "row": [4]})
    described = json.dumps({"index_columns": ["row"], "columns": []}).encode()
    pq.write_table(table.replace_schema_metadata({b"pandas": described}), tmp_path / "named.parquet")
    pq.write_table(table.rename_columns(["prompt", "target_new", "__index_level_0__"]), tmp_path / "left.parquet")
    for name in ("named", "left"):
        assert read_edits(tmp_path / f"{name}.parquet") == [Edit(prompt="Q?", target_new="A")]
    pq.write_table(table, tmp_path / "own.parquet")
    assert "unknown field" in complaint(tmp_path / "own.parquet")


def test_fields_of_other_records_filled_with_nulls_are_absent(tmp_path: Path) -> None:
    """At any depth, since Arrow gives every object of a column the fields of all its objects."""
    record = {"prompt": "Q?", "target_new": "A", "locality": [{"prompt": "q", "answer": "a", "source": None}]}
    pq.write_table(pa.Table.from_pylist([record | {"score": None}]), tmp_path / "e.parquet")
    assert read_edits(tmp_path / "e.parquet")[0].locality == (Probe(prompt="q", answer="a"),)
    nested = ORIGINAL["requested_rewrite"] | {"note": None}
    pq.write_table(pa.Table.from_pylist([ORIGINAL | {"requested_rewrite": nested}]), tmp_path / "c.parquet")
    assert read_edits(tmp_path / "c.parquet") == read_edits(write_json(tmp_path / "c.json", [ORIGINAL]))


@pytest.mark.parametrize(
    ("record", "more"),
    [
        (KNOWEDIT, {"text": None, "labels": None, "concept": None}),
        (ZSRE, {"note": None}),
        (QAEDIT, {"loc": None, "prompt_": None}),
        (FLAT, {"requested_rewrite": None, "src": None, "alt": None}),
        (PLAIN, {"text": None, "labels": None}),
        (ORIGINAL, {"requested_rewrite": ORIGINAL["requested_rewrite"] | {"note": None}, "prompt": None}),  # type: ignore[operator]
        (ZSRE, {"portability": {"New Question": "Who?", "New Answer": "Ada", "note": None}}),
        (KNOWEDIT, {"locality": {**KNOWEDIT["locality"], "Other": None}}),  # type: ignore[dict-item]
    ],
)
def test_null_in_a_field_of_another_format_is_absent_in_json_too(
    tmp_path: Path, record: dict[str, Any], more: dict[str, Any]
) -> None:
    plain = record | {name: _filled(value) for name, value in more.items() if value is not None}
    assert read_edits(write_json(tmp_path / "null.json", [record | more])) == read_edits(
        write_json(tmp_path / "plain.json", [plain])
    )


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if inner is not None}


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (PLAIN | {"target_new": None}, "target_new"),
        (ZSRE | {"alt": None}, "alt"),
        (QAEDIT | {"target": None}, "target"),
    ],
)
def test_null_in_a_field_that_must_be_there_is_missing(tmp_path: Path, record: dict[str, Any], field: str) -> None:
    assert f"field '{field}': is missing" in complaint(write_json(tmp_path / "e.json", [record]))


def test_an_index_of_pandas_that_holds_a_field_is_read(tmp_path: Path) -> None:
    table = pa.table({"target_new": ["A"], "prompt": ["Q?"], "subject": ["S"]})
    described = json.dumps({"index_columns": ["prompt", "subject"], "columns": []}).encode()
    pq.write_table(table.replace_schema_metadata({b"pandas": described}), tmp_path / "e.parquet")
    assert read_edits(tmp_path / "e.parquet") == [Edit(prompt="Q?", target_new="A", subject="S")]
