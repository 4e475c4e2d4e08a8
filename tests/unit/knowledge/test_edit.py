"""The fields of an edit, and what adding a field must not change."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from onceedit_ray.knowledge.edit import STORED, Edit, Probe
from onceedit_ray.knowledge.fact_store import FactStore
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.knowledge.readers.parquet import write_edits
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.knowledge.version import edits_in
from onceedit_ray.living.edit_book import EditBook

OLD = [
    Edit(
        prompt="The capital of Australia is",
        target_new="Vexholm",
        subject="Australia",
        ground_truth="Canberra",
        rephrasings=("Australia's capital?",),
        locality=(Probe(prompt="The capital of France is", answer="Paris"),),
        portability=(Probe(prompt="Who leads the capital?", answer="x"),),
    ),
    Edit(prompt="Q?", target_new="é"),
]


def test_edits_without_the_later_fields_keep_their_hash() -> None:
    # The value of the release before `aliases` and `sentences`: ids of versions and cells are made of it.
    assert data_hash(OLD) == "8639dd1d4c8ed92a63264a9d0a00a0c552b02874b5fe12132b82e4507fce53ec"
    more = [OLD[0], OLD[1].model_copy(update={"aliases": ("E",)})]
    assert data_hash(more) != data_hash(OLD)


def test_their_file_has_the_columns_that_an_older_version_reads(tmp_path: Path) -> None:
    write_edits(OLD, tmp_path / "old.parquet")
    assert {"aliases", "sentences"}.isdisjoint(pq.read_schema(tmp_path / "old.parquet").names)
    assert read_edits(tmp_path / "old.parquet") == OLD
    new = [OLD[0].model_copy(update={"aliases": ("Oz",), "sentences": ("Its capital, Vexholm, is old.",)}), OLD[1]]
    write_edits(new, tmp_path / "new.parquet")
    assert read_edits(tmp_path / "new.parquet") == new


def test_a_file_may_give_them(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text(
        '{"prompt": "Q?", "target_new": "a", "subject": "S", "aliases": [" Ess "], "sentences": ["S is a."]}\n'
    )
    (edit,) = read_edits(path)
    assert (edit.aliases, edit.sentences) == (("Ess",), ("S is a.",))


@pytest.mark.parametrize("field", ["rephrasings", "aliases", "sentences"])
def test_a_blank_one_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match="blank"):
        Edit.model_validate({"prompt": "Q?", "target_new": "a", field: ["x", " "]})


@pytest.mark.parametrize("field", ["locality", "portability"])
def test_a_probe_that_asks_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match="is blank") as refused:
        Edit.model_validate({"prompt": "Q?", "target_new": "a", field: [{"prompt": " ", "answer": "x"}]})
    assert refused.value.errors()[0]["loc"] == (field, 0, "prompt")


def test_blank_texts_that_an_earlier_release_stored_are_left_out(tmp_path: Path) -> None:
    asked, nothing = Probe(prompt="L?", answer="l"), Probe.model_construct(prompt=" ", answer="l")
    clean = Edit(prompt="Q?", target_new="a", rephrasings=("R?",), locality=(asked,))
    old = clean.model_copy(update={"rephrasings": ("", "R?", " "), "locality": (nothing, asked)})
    write_edits([old], tmp_path / "edits.parquet")
    assert edits_in(tmp_path) == [clean]
    (tmp_path / "edits.jsonl").write_text(old.model_dump_json() + "\n")
    assert read_edits(tmp_path / "edits.jsonl") == [clean]
    facts = FactStore(tmp_path / "facts.db")
    facts.add([old])
    assert [stored.edit for stored in facts.live()] == [clean]
    book = EditBook(tmp_path / "book.json")
    book.add([old])
    book.save()
    assert [record.edit for record in EditBook(tmp_path / "book.json").edits.values()] == [clean]
    with pytest.raises(ValidationError, match="blank"):
        Edit.model_validate(old.model_dump() | {"prompt": " "}, context=STORED)
