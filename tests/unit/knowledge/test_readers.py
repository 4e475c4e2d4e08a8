"""Dataset readers: each format by hand, each kind of bad file, and the real files where they are present."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onceedit_ray.errors import ConfigError, DataError
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import READERS, read_edits
from onceedit_ray.knowledge.readers.parquet import EDITS_SCHEMA, write_edits
from tests.edit_records import EDIT, FLAT, ORIGINAL, PLAIN, ZSRE, complaint, write_json, write_lines
from tests.paths import DATA, ROOT


def test_formats_are_registered() -> None:
    assert READERS.names() == ["counterfact", "jsonl", "knowedit", "mquake", "parquet", "qaedit", "zsre"]


def test_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'zsre'"):
        read_edits(write_json(tmp_path / "a.json", [ZSRE]), "zsr")


@pytest.mark.parametrize("format", ["auto", "zsre"])
def test_zsre(tmp_path: Path, format: str) -> None:
    bare = {"src": "Who?", "alt": "Ada", "portability": None, "rephrase": ""}
    full, empty = read_edits(write_json(tmp_path / "z.json", [ZSRE, bare]), format)
    assert full == Edit(
        prompt="Who leads Acme?",
        target_new="Ada",
        subject="Acme",
        ground_truth="Bob",
        rephrasings=("Acme's head is",),
        locality=(Probe(prompt="who leads bcme", answer="Cleo"),),
        portability=(Probe(prompt="Where?", answer="London"),),
    )
    assert empty == Edit(prompt="Who?", target_new="Ada")


@pytest.mark.parametrize("format", ["auto", "counterfact"])
def test_counterfact_flat(tmp_path: Path, format: str) -> None:
    several = FLAT | {"locality_prompt": ["B is", "C is"], "locality_ground_truth": ["1", "2"]}
    one, two = read_edits(write_lines(tmp_path / "c.jsonl", FLAT, several), format)
    assert one == Edit(
        prompt="Acme is led by",
        target_new="Ada",
        subject="Acme",
        ground_truth="Bob",
        rephrasings=("At the head of Acme is",),
        locality=(Probe(prompt="Bcme is led by", answer="Cleo"),),
    )
    assert two.locality == (Probe(prompt="B is", answer="1"), Probe(prompt="C is", answer="2"))


def test_counterfact_original_fills_in_the_subject_and_the_neighbours_answer(tmp_path: Path) -> None:
    (edit,) = read_edits(write_json(tmp_path / "c.json", [ORIGINAL]))
    assert edit == Edit(
        prompt="Acme is led by",
        target_new="Ada",
        subject="Acme",
        ground_truth="Bob",
        rephrasings=("At the head of Acme is", "Acme's head is"),
        locality=(Probe(prompt="Bcme is led by", answer="Bob"),),
        portability=(Probe(prompt="Where?", answer="London"),),
    )


def test_plain_lines_and_list_read_alike(tmp_path: Path) -> None:
    minimal = {"prompt": " Q? ", "target_new": " A", "subject": None}
    expected = [EDIT, Edit(prompt="Q?", target_new="A")]
    assert read_edits(write_lines(tmp_path / "e.jsonl", PLAIN, minimal)) == expected
    assert read_edits(write_json(tmp_path / "e.json", [PLAIN, minimal]), "jsonl") == expected


def test_answers_that_look_like_dates_stay_texts(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "e.jsonl", {"prompt": "When?", "target_new": "2006-01-02"})
    assert read_edits(path)[0].target_new == "2006-01-02"


def test_byte_order_mark_blank_lines_and_gzip(tmp_path: Path) -> None:
    source = b"\xef\xbb\xbf\r\n" + json.dumps(PLAIN).encode() + b"\r\n\r\n"
    (tmp_path / "e.jsonl").write_bytes(source)
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(source))
    assert read_edits(tmp_path / "e.jsonl") == [EDIT]
    assert read_edits(str(tmp_path / "e.jsonl.gz")) == [EDIT]
    assert read_edits((tmp_path / "e.jsonl").as_uri()) == [EDIT]


def test_parquet_keeps_every_field(tmp_path: Path) -> None:
    assert set(EDITS_SCHEMA.names) == set(Edit.model_fields)
    edits = [EDIT, Edit(prompt="Größe?", target_new="groß")]
    write_edits(edits, tmp_path / "e.parquet")
    assert read_edits(tmp_path / "e.parquet") == edits
    assert read_edits(tmp_path / "e.parquet", "parquet") == edits


def test_dataset_formats_in_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([ZSRE]), tmp_path / "z.parquet")
    assert read_edits(tmp_path / "z.parquet") == read_edits(write_json(tmp_path / "z.json", [ZSRE]))


def test_format_and_container_must_agree(tmp_path: Path) -> None:
    assert "format 'parquet' does not read" in complaint(write_lines(tmp_path / "e.jsonl", PLAIN), "parquet")


@pytest.mark.parametrize(
    ("record", "field", "problem"),
    [
        (PLAIN | {"rephrasing": []}, "rephrasing", "unknown field, did you mean 'rephrasings'?"),
        (PLAIN | {"target_new": 2011}, "target_new", "expected a text in double quotes, found the number 2011"),
        (PLAIN | {"target_new": "  "}, "target_new", "is blank"),
        (PLAIN | {"rephrasings": "one"}, "rephrasings", "expected a list, found a text"),
        (PLAIN | {"rephrasings": ["a", 3]}, "rephrasings[1]", "found the number 3"),
        (PLAIN | {"locality": [{"prompt": "a"}]}, "locality[0].answer", "is missing"),
        (PLAIN | {"locality": [{"prompt": "a", "answer": "b", "c": "d"}]}, "locality[0].c", "unknown field"),
        ({"prompt": "Q?"}, "target_new", "is missing"),
        (PLAIN | {"prompt": "\ud800"}, "prompt", "unicode"),
    ],
)
def test_malformed_plain_record_names_line_and_field(
    tmp_path: Path, record: dict[str, Any], field: str, problem: str
) -> None:
    message = complaint(write_lines(tmp_path / "e.jsonl", PLAIN, record))
    assert f"line 2, field '{field}': " in message
    assert problem in message


@pytest.mark.parametrize(
    ("good", "bad", "field", "problem"),
    [
        (ZSRE, ZSRE | {"altt": "x"}, "altt", "did you mean 'alt'?"),
        (ZSRE, ZSRE | {"alt": True}, "alt", "expected a text, found true or false"),
        (ZSRE, ZSRE | {"alt": "\udc00"}, "alt", "surrogate"),
        (ZSRE, {"src": "Q?"}, "alt", "is missing"),
        (ZSRE, ZSRE | {"loc_ans": None}, "loc_ans", "has 0 texts for 1 in 'loc'"),
        (ZSRE, ZSRE | {"portability": "x"}, "portability", "expected an object, found a text"),
        (ZSRE, ZSRE | {"portability": {"New Question": 1}}, "portability.New Question", "found the number 1"),
        (ZSRE, ZSRE | {"portability": {"Question": "x"}}, "portability.Question", "unknown field"),
        (FLAT, FLAT | {"locality_ground_truth": ["a", "b"]}, "locality_ground_truth", "has 2 texts for 1"),
        (FLAT, FLAT | {"paraphrase_prompts": []}, "paraphrase_prompts", "unknown field"),
        (ORIGINAL, ORIGINAL | {"requested_rewrite": {}}, "requested_rewrite", "is empty"),
        (ORIGINAL, ORIGINAL | {"requested_rewrite": None}, "requested_rewrite", "is empty"),
    ],
)
def test_malformed_dataset_record_names_record_and_field(
    tmp_path: Path, good: dict[str, Any], bad: dict[str, Any], field: str, problem: str
) -> None:
    message = complaint(write_json(tmp_path / "d.json", [good, bad]))
    assert f"record 2, field '{field}': " in message
    assert problem in message


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"prompt": "Acme is led by"}, "prompt", "expected {} where the subject goes"),
        ({"target_new": {"str": ""}}, "target_new.str", "is blank"),
        ({"target_new": None}, "target_new", "is missing"),
        ({"target_new": "Ada"}, "target_new", "expected an object"),
    ],
)
def test_malformed_rewrite_names_the_nested_field(
    tmp_path: Path, change: dict[str, Any], field: str, problem: str
) -> None:
    bad = ORIGINAL | {"requested_rewrite": ORIGINAL["requested_rewrite"] | change}  # type: ignore[operator]
    message = complaint(write_json(tmp_path / "d.json", [bad]))
    assert f"record 1, field 'requested_rewrite.{field}': {problem}" in message


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("a.json", b"", "is empty"),
        ("a.json", b" \n ", "is empty"),
        ("a.json", b"[]", "holds no records"),
        ("a.json", b'[{"prompt": "a",]', "line 1: not JSON"),
        ("a.json", b"[\n1]", "record 1: expected an object with named fields, found the number 1"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.jsonl", b'{"prompt": "a", "target_new": "b"}\n\n{"prompt"\n', "line 3: not JSON"),
        ("a.jsonl", b"hello\n", "line 1: not JSON"),
        ("a.jsonl", b'"hello"\n', "line 1: expected an object with named fields, found a text"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "line 2: not UTF-8"),
        ("a.jsonl", b'{"question": "a"}\n', "line 1: fields 'question' fit no dataset format"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.parquet", b"PAR1 cut short", "not a whole Parquet file"),
        ("a.parquet", b"", "not a whole Parquet file"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, source: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(source)
    assert expected in complaint(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in complaint(tmp_path / "none.json")
    assert "is a folder" in complaint(tmp_path)
    with pytest.raises(DataError, match="cannot be reached"):
        read_edits("nowhere://bucket/a.json")


def test_truncated_parquet(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    write_edits([EDIT] * 100, whole)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-20])
    assert "not a whole Parquet file" in complaint(cut)


def test_parquet_of_wrong_types_names_record_and_field(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "target_new": [7]}), tmp_path / "w.parquet")
    assert "record 1, field 'target_new': expected a text" in complaint(tmp_path / "w.parquet")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "n.parquet")
    assert "holds no records" in complaint(tmp_path / "n.parquet")


@pytest.mark.parametrize(
    ("name", "records", "probed"),
    [
        ("zsre_edit", 800, True),
        ("counterfact_edit", 9000, False),
        ("counterfact_portability", 1031, True),
    ],
)
def test_real_files_are_read_whole(name: str, records: int, probed: bool) -> None:
    edits = read_edits(DATA / f"{name}.parquet")
    assert len(edits) == records
    assert all(edit.rephrasings and edit.locality and edit.subject in edit.prompt for edit in edits)
    assert all(bool(edit.portability) == probed for edit in edits)
    assert not any("nq question" in probe.prompt or "{}" in edit.prompt for edit in edits for probe in edit.locality)


def test_the_examples_are_ready_to_be_scored() -> None:
    edits = read_edits(ROOT / "onceedit_ray" / "starter" / "edits.jsonl")
    assert len({edit.prompt for edit in edits}) == len(edits) >= 12
    questions = [edit for edit in edits if edit.prompt.endswith("?")]
    assert 0.3 < len(questions) / len(edits) < 0.7
    for edit in edits:
        assert edit.subject and edit.subject in edit.prompt
        assert edit.ground_truth not in ("", edit.target_new)
        assert len(edit.target_new.split()) <= 4
        assert len(edit.rephrasings) >= 2 and len(edit.locality) >= 2
        assert not any(edit.subject in probe.prompt for probe in edit.locality[2:])
    asked = [prompt for edit in edits for prompt in (edit.prompt, *edit.rephrasings)]
    kept = [probe.prompt for edit in edits for probe in edit.locality]
    assert len(set(asked + kept)) == len(asked + kept)


def test_a_line_separator_inside_a_text_is_no_line_end(tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text('{"prompt": "one\u2028line", "target_new": "a"}\n{}\n', encoding="utf-8")
    assert "line 2" in complaint(tmp_path / "e.jsonl")


def test_where_two_formats_fit_equally_the_plain_one_is_meant(tmp_path: Path) -> None:
    record = {"prompt": "Q?", "target_new": "A", "rephrasing": "R?"}
    assert "did you mean 'rephrasings'?" in complaint(write_lines(tmp_path / "e.jsonl", record))
