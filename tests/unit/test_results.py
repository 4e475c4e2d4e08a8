"""Results at a URI: written into a folder of the home, copied there, found again by another machine."""

import os

import pytest

from onceedit_ray.errors import StoreError
from onceedit_ray.results import Results

FILES = ("cells/*/records.parquet", "cells/*/cell.json", "qs/*")


@pytest.fixture
def homes(monkeypatch, tmp_path):
    """Sets `ONCEEDIT_HOME` to that of a machine."""

    def use(machine):
        monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / machine))

    use("one")
    return use


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_used_in_place(tmp_path):
    results = Results("there", tmp_path)
    assert results.folder == tmp_path / "there" and results.named("qs") == f"{tmp_path}/there/qs"
    results.publish(FILES)
    results.fetch(FILES)
    assert os.listdir(tmp_path) == []


def test_what_matches_is_copied_and_another_machine_finds_it(homes, tmp_path):
    uri = f"file://{tmp_path}/shared/results"
    results = Results(uri)
    assert tmp_path / "one" in results.folder.parents and results.named("qs") == f"{uri}/qs"
    write(
        results.folder, qs__report_md="scores", cells__a1__cell_json="{}", cells__a1__edit_bin="half", versions__v="w"
    )
    results.publish(FILES)
    shared = {"qs/report.md": "scores", "cells/a1/cell.json": "{}"}
    assert found(tmp_path / "shared" / "results") == shared

    homes("two")
    other = Results(uri)
    assert tmp_path / "two" in other.folder.parents
    other.fetch(FILES[:2])
    assert found(other.folder) == {"cells/a1/cell.json": "{}"}
    write(other.folder, cells__a1__cell_json="mine")
    other.fetch(FILES)
    assert found(other.folder) == {**shared, "cells/a1/cell.json": "mine"}, "what is here stays"


def test_a_changed_file_is_copied_again_and_no_other(homes, tmp_path):
    results = Results(f"file://{tmp_path}/shared")
    write(results.folder, qs__report_md="first", qs__summary_json="{}")
    results.publish(FILES)
    (tmp_path / "shared/qs/summary.json").unlink()
    write(results.folder, qs__report_md="second, longer")
    results.publish(FILES)
    assert found(tmp_path / "shared") == {"qs/report.md": "second, longer"}


def test_the_same_uri_has_the_same_folder_and_another_one_another(homes):
    one, same, other = (Results(f"file:///tmp/{name}") for name in ("a-b", "a-b", "a_b"))
    assert one.folder == same.folder != other.folder


@pytest.mark.parametrize("uri", ["s4://bucket/results", "file:///proc/nowhere/results"])
def test_a_uri_that_cannot_be_written_is_one_line_at_once(homes, uri, tmp_path):
    with pytest.raises(StoreError, match=f"^the results at {uri} cannot be reached: .*; check the URI") as caught:
        Results(uri)
    assert "\n" not in str(caught.value) and not (tmp_path / "one" / "results").exists()


def test_no_message_holds_a_secret(homes):
    with pytest.raises(StoreError) as caught:
        Results("s4://key:secret@bucket/results?token=secret")
    assert "s4://bucket/results cannot" in str(caught.value)
