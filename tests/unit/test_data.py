"""`data/`: everything that run files name is there, and each Parquet file holds what was published."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from onceedit_ray.config import read_yaml
from onceedit_ray.errors import DataError
from onceedit_ray.knowledge.content import PUBLISHED, content_hash
from scripts.make_data import FILES, VOCABULARIES, make_data
from tests.paths import DATA, ENVIRONMENTS, ROOT

LISTED: dict[str, dict[str, str]] = json.loads((DATA / PUBLISHED).read_text(encoding="utf-8"))
MADE_HERE = ("carriers.parquet",)
"""Files without a published source: `scripts/make_carriers.py`."""
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def as_published(path: Path) -> bytes:
    """The JSON file that a Parquet file was made from, byte for byte: all of them were written in this form."""
    return json.dumps(pq.read_table(path).to_pylist(), indent=0, ensure_ascii=False).encode()


written = pq.write_table


def paths_in(value: Any) -> list[str]:
    """Every file that a run file names, at whatever depth."""
    if isinstance(value, dict):
        return [path for each in value.values() for path in paths_in(each)]
    if isinstance(value, list):
        return [path for each in value for path in paths_in(each)]
    return [value] if isinstance(value, str) and re.fullmatch(r"[\w./-]+\.(?:parquet|jsonl?|txt)", value) else []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_what_a_run_file_names_is_in_the_repository(config: Path) -> None:
    named = paths_in(read_yaml(config))
    places = [beside if (beside := config.parent / path).exists() else ROOT / path for path in named]
    assert [place for place in places if not place.resolve().is_relative_to(ROOT) or not place.exists()] == []
    assert named or "like" in read_yaml(config)


@pytest.mark.parametrize("name", sorted(LISTED))
def test_a_parquet_file_holds_the_published_records(name: str) -> None:
    assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == LISTED[name]["sha256"]
    assert hashlib.sha256(as_published(DATA / name)).hexdigest() == LISTED[name]["made_from_sha256"]


def test_everything_is_listed_and_small() -> None:
    assert {Path(entry["made_from"]).name for entry in LISTED.values()} == set(FILES)
    assert {path.name for path in DATA.glob("*.parquet")} == {*LISTED, "vocabularies.parquet", *MADE_HERE}
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 6_000_000
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in readme for path in DATA.glob("*.parquet"))


def test_the_content_of_a_listed_file_is_the_published_one_until_it_is_changed(tmp_path: Path) -> None:
    name, entry = next(iter(LISTED.items()))
    copy = tmp_path / name
    copy.write_bytes((DATA / name).read_bytes())
    assert content_hash(copy) == entry["sha256"], "no list beside it: a file of its own"
    (tmp_path / PUBLISHED).write_text((DATA / PUBLISHED).read_text(encoding="utf-8"), encoding="utf-8")
    assert content_hash(copy) == entry["made_from_sha256"]
    copy.write_bytes(b"changed")
    assert content_hash(copy) == hashlib.sha256(b"changed").hexdigest()
    (tmp_path / PUBLISHED).write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="not a list of published files"):
        content_hash(copy)


def test_the_script_makes_the_files_from_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows are compared; how well they are compressed takes most of the time, and is seen in the files of `data/`.
    monkeypatch.setattr(pq, "write_table", lambda *args, **named: written(*args, **named | {"compression_level": 1}))
    source = tmp_path / "published" / "deeper"
    source.mkdir(parents=True)
    for name in FILES:
        (source / name).write_bytes(as_published(DATA / f"{Path(name).stem}.parquet"))
    with pytest.raises(FileNotFoundError, match=r"holds no llama2\.json"):
        make_data(source.parent, tmp_path / "made")
    rows = pq.read_table(DATA / "vocabularies.parquet").to_pylist()
    for model, name in VOCABULARIES.items():
        tokens = [row["token"] for row in rows if row["model"] == model]
        (source / name).write_text(json.dumps(tokens), encoding="utf-8")
    make_data(source.parent, tmp_path / "made")
    for name in (*LISTED, "vocabularies.parquet"):
        path = DATA / name
        assert pq.read_table(tmp_path / "made" / path.name).equals(pq.read_table(path)), path.name
    made = json.loads((tmp_path / "made" / PUBLISHED).read_text(encoding="utf-8"))
    assert {name: entry["made_from_sha256"] for name, entry in made.items()} == {
        name: entry["made_from_sha256"] for name, entry in LISTED.items()
    }


def test_no_file_names_a_folder_beside_the_repository() -> None:
    """This file is checked, too, so it builds the folder's name from parts."""
    outside = ("../" + "shared").encode()
    left_out = {".git", ".cache", "build", "results", "__pycache__"} | ENVIRONMENTS
    files = [
        path for top in ROOT.iterdir() if top.name not in left_out for path in (top.rglob("*"), [top])[top.is_file()]
    ]
    naming = [path for path in files if path.is_file() and path.suffix != ".pyc" and outside in path.read_bytes()]
    assert naming == [] and len(files) > 400
