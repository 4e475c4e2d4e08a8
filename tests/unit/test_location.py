"""What a URI means: data files are read there, everything else that must be local refuses it."""

from pathlib import Path

import pytest
import yaml

from onceedit_ray.cluster.serve_args import ServeArgs
from onceedit_ray.comparison.grid_config import DatasetConfig
from onceedit_ray.config import load_config, parse_as
from onceedit_ray.errors import ConfigError, DataError, ModelError, StoreError
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.knowledge.run_data import general_prompts, selected_edits, unrelated_prompts
from onceedit_ray.location import locate, refusal, without_secrets
from onceedit_ray.models.sources import resolve

EDIT = '{"prompt": "What is the capital of France?", "target_new": "Lyon", "subject": "France"}\n'


def run_file(folder, **changes):
    values = {"name": "r", "plugin": "smollm2-135m", "targets": {"gemma": "gemma-3-270m"}, "knowledge": {}, **changes}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_run_files_data_is_read_at_uris(tmp_path):
    (tmp_path / "edits.jsonl").write_text(EDIT)
    (tmp_path / "prompts.txt").write_text("Who?\n")
    edits, prompts = (f"file://{tmp_path}/{name}" for name in ("edits.jsonl", "prompts.txt"))
    changes = {"knowledge": {"path": edits}, "editing": {"unrelated": [prompts]}, "evaluation": {"general": prompts}}
    config = load_config(run_file(tmp_path, **changes))
    assert config.knowledge.path == edits, "the text, since a path would lose a slash"
    assert [edit.target_new for edit in selected_edits(config.knowledge)] == ["Lyon"]
    assert unrelated_prompts(config.editing.unrelated)[0] == ["Who?"]
    assert general_prompts(config.evaluation.general, 9) == ["Who?"]
    assert type(config).model_validate(config.model_dump(mode="json")) == config


def test_paths_stay_paths(tmp_path):
    (tmp_path / "edits.jsonl").write_text(EDIT)
    assert load_config(run_file(tmp_path, knowledge={"path": "edits.jsonl"})).knowledge.path == tmp_path / "edits.jsonl"


def test_a_uri_of_no_filesystem_is_one_line_without_its_secret(tmp_path):
    config = load_config(run_file(tmp_path, knowledge={"path": "s4://key:secret@bucket/edits.jsonl"}))
    with pytest.raises(DataError, match=r"^s4://bucket/edits.jsonl: cannot be reached") as caught:
        selected_edits(config.knowledge)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", [3, ["a"]])
def test_what_is_neither_path_nor_uri_is_named(tmp_path, path):
    with pytest.raises(ConfigError, match=r"'knowledge.path': input should be a path or a URI, found"):
        load_config(run_file(tmp_path, knowledge={"path": path}))


def test_the_home_refuses_a_uri_and_nothing_is_made(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONCEEDIT_HOME", "s3://key:secret@bucket/home")
    with pytest.raises(StoreError, match=r"^ONCEEDIT_HOME: s3://bucket/home is a URI, .*; mount it and give its path$"):
        onceedit_home()
    assert list(tmp_path.iterdir()) == []


def test_a_grids_local_files_refuse_a_uri():
    for key, value in {"training": "s3://bucket/a.parquet", "unrelated": ["s3://bucket/a.parquet"]}.items():
        with pytest.raises(ConfigError, match=rf"'{key}.*': s3://bucket/a.parquet is a URI, .* mount it"):
            parse_as(DatasetConfig, {key: value}, "grid.yaml")
    for key in ("config", "keys_file", "edit_keys_file", "admin_keys_file"):
        with pytest.raises(ConfigError, match=rf"'{key}.*': s3://bucket/a is a URI, .* mount it"):
            parse_as(ServeArgs, {key: "s3://bucket/a"}, "serve.yaml")
    assert DatasetConfig(training="a.parquet").training == Path("a.parquet")


def test_what_is_a_uri():
    assert refusal("/a/b") is None and refusal("C:/a") is None and refusal(Path("a://b")) is None
    assert refusal("gs://b/x") == "gs://b/x is a URI, and a local path is needed; mount it and give its path"
    assert without_secrets("s3://k:s@b/x?endpoint_override=h") == "s3://b/x" and without_secrets("/a@b?c") == "/a@b?c"
    assert locate("file:///a/b")[1] == "/a/b" and locate(Path("/a/b"))[1] == "/a/b"


def test_a_relative_path_may_lead_nowhere_because_a_copy_left_the_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for reference in ("models/m.gguf", "./models/m"):
        with pytest.raises(ModelError, match=r"\.gitignore names: give its absolute path$"):
            resolve(reference)
        with pytest.raises(ModelError, match="there is no") as told:
            resolve(str(tmp_path / reference))
        assert "gitignore" not in str(told.value)
    with pytest.raises(DataError, match=r"no such file; check the path; .*\.gitignore names: give its absolute path$"):
        read_edits(Path("data/edits.jsonl"))
    for path in (tmp_path / "edits.jsonl", f"file://{tmp_path}/edits.jsonl"):
        with pytest.raises(DataError, match=r"no such file; check the path$"):
            read_edits(path)
