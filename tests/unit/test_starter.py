"""What `onceedit init` writes, where commands look for a run file, and the questions that `onceedit demo` asks."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from onceedit_ray.cli import main
from onceedit_ray.cluster.serve_args import ServeArgs
from onceedit_ray.config import load_config
from onceedit_ray.demo import questions_of
from onceedit_ray.errors import ConfigError
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.starter import FILES, default_run_file, packaged_run_file, write_starter
from tests.paths import ROOT


def test_the_starter_is_the_quickstart(tmp_path: Path) -> None:
    """One set of settings: a checkout's demo and that of a fresh installation are the same run."""
    write_starter(tmp_path)
    fresh, checkout = load_config(tmp_path / "quickstart.yaml"), load_config(ROOT / "configs" / "quickstart.yaml")
    assert fresh.model_copy(update={"knowledge": checkout.knowledge}) == checkout
    assert selected_edits(fresh.knowledge) == selected_edits(checkout.knowledge)
    assert fresh.knowledge.path == tmp_path / "edits.jsonl"


def test_the_starters_serve_file_needs_no_checkout(tmp_path: Path) -> None:
    write_starter(tmp_path)
    own, checkout = (
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (tmp_path / "serve.yaml", ROOT / "deployments" / "serve.yaml")
    )
    (served,) = own["applications"]
    assert served["import_path"] == "onceedit_ray.cluster.app:build_app"
    assert (tmp_path / ServeArgs.model_validate(served["args"]).config).is_file()
    (there,) = checkout["applications"]
    served["import_path"], served["args"]["config"] = there["import_path"], there["args"]["config"]
    assert own == checkout


def test_files_that_exist_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "edits.jsonl").write_text("mine")
    assert main(["init", str(tmp_path)]) == 0
    assert (tmp_path / "edits.jsonl").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    assert main(["init", str(tmp_path)]) == 0
    assert "nothing was changed" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file.*cannot be written"):
        write_starter(tmp_path / "file")


def test_a_run_file_is_found_here_or_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="onceedit init"):
        default_run_file()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text("")
    assert default_run_file() == Path("configs/quickstart.yaml")
    (tmp_path / "quickstart.yaml").write_text("")
    assert default_run_file() == Path("quickstart.yaml")


def test_paths_are_looked_for_beside_the_run_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "model").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    run = {"name": "x", "knowledge": {"path": "edits.jsonl"}, "plugin": "./model", "targets": {"a": "local:m"}}
    run["evaluation"] = {"general": "general.txt"}
    (tmp_path / "there" / "run.yaml").write_text(yaml.safe_dump(run))
    (tmp_path / "there" / "edits.jsonl").write_text("")
    (tmp_path / "here" / "general.txt").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    config = load_config("../there/run.yaml")
    assert config.knowledge.path.resolve() == tmp_path / "there" / "edits.jsonl"
    assert Path(config.plugin.model).resolve() == tmp_path / "there" / "model"
    assert config.evaluation.general == Path("general.txt"), "not beside the run file: the working directory's"
    assert config.targets["a"].model == "local:m"


def test_models_and_readers_are_looked_for_beside_the_run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "readers" / "mine").mkdir(parents=True)
    (tmp_path / "there" / "m.gguf").write_text("")
    given = {"a": "local:readers/mine", "b": "m.gguf", "c": "gguf:m.gguf", "d": "other.gguf", "e": "org/m"}
    run = {"name": "x", "knowledge": {}, "plugin": "./readers/mine", "targets": given}
    run["editing"] = {"editor": "reader:readers/mine"}
    (tmp_path / "there" / "run.yaml").write_text(yaml.safe_dump(run))
    monkeypatch.chdir(tmp_path)
    config = load_config("there/run.yaml")
    there = tmp_path / "there"
    assert config.editing.editor == f"reader:{there}/readers/mine"
    assert {name: target.model for name, target in config.targets.items()} == {
        "a": f"local:{there}/readers/mine", "b": f"{there}/m.gguf", "c": f"gguf:{there}/m.gguf",
        "d": "other.gguf", "e": "org/m",
    }  # fmt: skip


def test_a_demo_asks_questions_and_close_ones_that_must_not_change() -> None:
    edits = selected_edits(load_config(packaged_run_file()).knowledge)
    asked = questions_of(edits, shown=2)
    assert [question.text for question in asked] == [
        "What is the capital of Australia?",
        "What is the currency of Japan?",
        "What is the capital of New Zealand?",
        "The currency of India is the",
        "On which side of Australia does its capital lie, east or west?",
    ]
    assert [question.expected for question in asked] == ["Perth", "crown", None, None, "west"]
    assert [question.follows for question in asked] == [False, False, False, False, True]
