"""Unrelated prompts: from every kind of file, and those that are shipped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onceedit_ray.errors import DataError
from onceedit_ray.knowledge.prompt_files import read_prompts, shipped_prompts
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.knowledge.selection import normalised
from tests.paths import DATA, ROOT


def test_zsre_gives_questions_and_locality_questions_once_each(tmp_path: Path) -> None:
    records = [
        {"src": "Who?", "alt": "x", "rephrase": "And who?", "loc": "nq question: where", "loc_ans": "y"},
        {"src": "When?", "alt": "x", "loc": "nq question: where", "loc_ans": "y"},
    ]
    (tmp_path / "z.json").write_text(json.dumps(records))
    assert read_prompts(tmp_path / "z.json") == ["Who?", "where", "When?"]


def test_counterfact_gives_prompts_and_locality_prompts(tmp_path: Path) -> None:
    record = {"prompt": "A is", "target_new": "b", "rephrase_prompt": "R is"}
    record |= {"locality_prompt": "C is", "locality_ground_truth": "d"}
    (tmp_path / "c.json").write_text(json.dumps([record]))
    assert read_prompts(tmp_path / "c.json") == ["A is", "C is"]


@pytest.mark.parametrize("column", ["prompt", "text", "Text"])
def test_a_column_of_prompts(tmp_path: Path, column: str) -> None:
    records = [{column: " one ", "Corpus": 1}, {column: "two", "Corpus": 2}, {column: "one", "Corpus": 3}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, records)))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.jsonl") == ["one", "two"]
    assert read_prompts(tmp_path / "p.parquet") == ["one", "two"]


def test_plain_text(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\n two \r\none\n", encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == ["one", "two"]


def test_only_line_ends_end_a_line(tmp_path: Path) -> None:
    """A text may contain characters at which `str.splitlines` would split it."""
    texts = ["a line\u2028separator", "a form\x0cfeed", "a next\x85line", "a file\x1cseparator"]
    (tmp_path / "p.txt").write_bytes("\r\n".join(texts).encode())
    assert read_prompts(tmp_path / "p.txt") == texts
    (tmp_path / "p.txt").write_bytes(b"one\rtwo\nthree")
    assert read_prompts(tmp_path / "p.txt") == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("p.txt", b"\n", "is empty"),
        ("p.txt", b"ok\n\xff\n", "line 2: not UTF-8"),
        ("p.json", b"", "is empty"),
        ("p.jsonl", b'{"question": "a"}\n', "line 1: fields 'question' hold no prompts"),
        ("p.jsonl", b'{"text": "a"}\n{"texts": "b"}\n', "line 2, field 'text': is missing"),
        ("p.jsonl", b'{"text": 3}\n', "line 1, field 'text': expected a text, found the number 3"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, source: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(source)
    with pytest.raises(DataError) as caught:
        read_prompts(tmp_path / name)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shipped_prompts_are_many_distinct_and_short() -> None:
    prompts = shipped_prompts()
    assert len(prompts) >= 480
    assert len({normalised(prompt).casefold() for prompt in prompts}) == len(prompts)
    assert all(2 <= len(prompt.split()) <= 40 for prompt in prompts)
    questions = sum(prompt.endswith("?") for prompt in prompts)
    assert 0.2 < questions / len(prompts) < 0.6


def test_shipped_prompts_ask_for_no_fact_that_the_examples_edit() -> None:
    subjects = {edit.subject for edit in read_edits(ROOT / "onceedit_ray" / "starter" / "edits.jsonl")}
    about = re.compile("|".join(rf"\b{re.escape(subject)}\b" for subject in subjects), re.IGNORECASE)
    assert [prompt for prompt in shipped_prompts() if about.search(prompt)] == []


def test_real_files() -> None:
    train = read_prompts(DATA / "zsre_train.parquet")
    assert len(train) == len(set(train)) > 19_000
    assert not any(prompt.startswith("nq question") for prompt in train)
    general = read_prompts(DATA / "mixed_prompts.parquet")
    assert len(general) == 700
    assert not set(general) & set(shipped_prompts())
