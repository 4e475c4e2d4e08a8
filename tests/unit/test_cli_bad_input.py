"""Bad input to the command `onceedit` gives one line and exit code 2, and leaves no files behind."""

from __future__ import annotations

import errno
import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from onceedit_ray.editing.editors.onceedit import OnceEditEditor
from tests.command_line import EDITING, EDITS, QUESTION, Command, Place
from tests.paths import ROOT


def refused(place: Place, command: Command, *arguments: str) -> str:
    """The one line that a command with bad input says; checks its exit code, and that nothing was made."""
    before = place.made()
    code, out, err = command(*arguments)
    assert code == 2
    assert out == ""
    *progress, line = err.splitlines()
    assert line.startswith("error: ") and len(line) > 30
    assert not any(earlier.startswith(("error", "Traceback", " ")) for earlier in progress), err
    assert place.made() == before
    return line


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"prompt": "Q?", "target_new": "A", "anwser": "B"}'], ["edits.jsonl, line 1", "'anwser'"]),
        ([json.dumps(EDITS[0]), '{"prompt": "Q?", "target_new": '], ["edits.jsonl, line 2", "not JSON"]),
        ([json.dumps(EDITS[0]), '{"prompt": "Q?", "target_new": 5}'], ["edits.jsonl, line 2", "'target_new'"]),
        (['{"question": "Q?", "reply": "A"}'], ["edits.jsonl, line 1", "'question'", "prompt and target_new"]),
        ([], ["edits.jsonl", "is empty"]),
        (
            ['{"prompt": "Q?", "target_new": "A"}', '{"prompt": "Q?", "target_new": "B"}'],
            ["conflicting", "on_conflict"],
        ),
    ],
    ids=["unknown field", "cut record", "wrong type", "unknown format", "empty file", "conflict"],
)
@pytest.mark.parametrize("action", ["validate", "edit", "evaluate"])
def test_bad_data(action: str, lines: list[str], said: list[str], place: Place, command: Command) -> None:
    run_file = place.run_file()
    place.written("edits.jsonl", *lines)
    line = refused(place, command, action, *([] if action == "validate" else ["--config"]), run_file)
    assert all(words in line for words in said), line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fusion": {"treshold": 0.5}}, ["fusion.treshold", "did you mean 'threshold'?"]),
        ({"fusoin": {}}, ["'fusoin'", "did you mean 'fusion'?"]),
        ({"editing": {"learning_rate": -1}}, ["editing.learning_rate", "-1"]),
        ({"targets": {}}, ["targets"]),
    ],
    ids=["inner key", "outer key", "value", "no targets"],
)
@pytest.mark.parametrize("action", ["validate", "edit", "generate", "evaluate"])
def test_a_config_typo(action: str, changes: dict[str, Any], said: list[str], place: Place, command: Command) -> None:
    arguments = {"validate": [], "generate": ["--model", "all", "Q", "--config"]}.get(action, ["--config"])
    line = refused(place, command, action, *arguments, place.run_file(**changes))
    assert all(words in line for words in said), line


def test_a_run_file_that_is_none(place: Place, command: Command) -> None:
    assert "no run file at missing.yaml" in refused(place, command, "validate", "missing.yaml")
    assert "onceedit init" in refused(place, command, "edit"), "the default, where there is none"
    assert "not YAML" in refused(place, command, "validate", str(place.written("broken.yaml", "a: [")))
    assert "holds no settings" in refused(place, command, "validate", str(place.written("empty.yaml")))


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"fusion": {"strategy": "drafts"}}, "did you mean 'draft'?"),
        ({"evaluation": {"strategies": ["draft", "deepn"]}}, "did you mean 'deepen'?"),
        ({"editing": {"editor": "oncedit"}}, "did you mean 'onceedit'?"),
        ({"knowledge": {"path": "edits.jsonl", "format": "zsrre"}}, "did you mean 'zsre'?"),
    ],
    ids=["strategy", "compared strategy", "editor", "format"],
)
def test_validate_knows_every_name(changes: dict[str, Any], known: str, place: Place, command: Command) -> None:
    assert known in refused(place, command, "validate", place.run_file(**changes))


@pytest.mark.parametrize("arguments", [["edit"], ["evaluate"], ["serve"], ["generate", "--model", "all", "Q"]])
def test_a_grid_file_has_no_run(arguments: list[str], place: Place, command: Command) -> None:
    grid = str(ROOT / "configs" / "paper_table1.yaml")
    assert f"is a grid file; use `onceedit compare --config {grid}`" in refused(
        place, command, *arguments, "--config", grid
    )


def test_a_run_file_has_no_cells_and_no_scales(place: Place, command: Command) -> None:
    run = place.run_file()
    said = f"is a run file; use `onceedit evaluate --config {run}`"
    assert said in refused(place, command, "compare", "--config", run)
    assert "has no scales; leave --scale out" in refused(place, command, "validate", run, "--scale", "small")


@pytest.mark.parametrize(
    "arguments",
    [
        ["init", "s3://bucket/x"],
        ["validate", "s3://bucket/x"],
        ["edit", "--config", "s3://bucket/x"],
        ["generate", "--model", "all", "Q", "--config", "s3://bucket/x"],
        ["compare", "--config", "s3://bucket/x"],
        ["compare", "--config", "grid.yaml", "--cells", "s3://bucket/x"],
        ["prepare", "rome", "--model", "m", "--corpus", "s3://bucket/x"],
        ["reader", "train", "--out", "s3://bucket/x"],
        ["serve", "--keys", "s3://bucket/x"],
    ],
    ids=lambda arguments: " ".join(each for each in arguments if "://" not in each),
)
def test_a_uri_where_a_local_path_is_needed(arguments: list[str], place: Place, command: Command) -> None:
    """It would be taken for the path of a local folder called `s3:`."""
    assert "s3://bucket/x is a URI, and a local path is needed" in refused(place, command, *arguments)
    assert not Path("s3:").exists()


def test_an_unknown_model(place: Place, command: Command) -> None:
    unknown = place.run_file(plugin="smollm2-135")
    assert "did you mean 'smollm2-135m'?" in refused(place, command, "validate", unknown)
    assert "did you mean 'smollm2-135m'?" in refused(place, command, "edit", "--config", unknown)
    assert "did you mean 'smollm2-135m'?" in refused(place, command, "models", "fetch", "smollm2-135")
    asked = ("generate", "--model", "one", "Q", "--config")
    assert "there is no folder" in refused(place, command, *asked, place.run_file(targets={"one": "./nowhere"}))
    assert "there is no folder" in refused(place, command, "validate", place.run_file(targets={"one": "./nowhere"}))
    assert "there is no file" in refused(place, command, "validate", place.run_file(targets={"one": "./no.gguf"}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": {"one": "smollm2-135"}}, "did you mean 'smollm2-135m'?"),
        ({"evaluation": {"strategies": ["drafts"]}}, "did you mean 'draft'?"),
        ({"targets": {"foreign": None}}, "does not spell"),
    ],
    ids=["model of a target", "strategy", "no common tokens"],
)
def test_what_an_evaluation_needs_is_looked_for_before_the_edit(
    changes: dict[str, Any], said: str, place: Place, command: Command
) -> None:
    """An edit takes minutes, so mistakes in what follows are reported before it."""
    if "foreign" in changes.get("targets", {}):
        changes = {"targets": {"foreign": place.model("foreign")}}
    run_file = place.run_file(editing=EDITING | {"seed": 1}, **changes)
    assert said in refused(place, command, "evaluate", "--config", run_file)


def test_a_model_that_was_cut_short(place: Place, command: Command) -> None:
    cut = place.folder / "cut"
    shutil.copytree(place.models / "gpt2", cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "cut short" in refused(place, command, "models", "fetch", str(cut))


def test_a_target_without_common_tokens(place: Place, command: Command) -> None:
    run_file = place.run_file(targets={"foreign": place.model("foreign")})
    line = refused(place, command, "generate", "--model", "foreign", QUESTION, "--config", run_file)
    assert "does not spell spaces" in line and "foreign" in line


@pytest.mark.parametrize("unedited", [(), ("--strategy", "unedited")], ids=["edited", "unedited"])
def test_a_prompt_longer_than_the_context(
    unedited: tuple[str, ...], place: Place, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    asked = ("generate", "--model", "one", "word " * 400, "--config", place.run_file(), *unedited)
    line = refused(place, command, *asked)
    assert "context of 256 tokens" in line and "shorten" in line
    gc.collect()
    assert caplog.text == "", "nothing beside the line, not even about the other model's error"


def test_an_unknown_target_version_or_strategy(place: Place, command: Command) -> None:
    run_file = place.run_file()
    asked = ("generate", "--config", run_file, QUESTION, "--model")
    assert "unknown target 'three': " in refused(place, command, *asked, "three")
    assert "no version 'small-0000000000'; " in refused(place, command, *asked, "one", "--version", "small-0000000000")
    assert "did you mean 'draft'?" in refused(place, command, *asked, "one", "--strategy", "drafd")


def test_a_version_of_another_plugin(place: Place, command: Command) -> None:
    """The version was made from the Llama, whose tokens do not fit a run file with another plug-in."""
    other = place.run_file(plugin=place.model("gpt2"), targets={"one": place.model("mistral")})
    (version,) = place.store.versions()
    asked = ("generate", "--model", "one", QUESTION, "--config", other)
    line = refused(place, command, *asked, "--version", version.id)
    assert "plug-in" in line and "onceedit edit" in line
    assert "nothing has been edited yet" in refused(place, command, *asked)


def test_nothing_edited_yet(place: Place, command: Command) -> None:
    shutil.rmtree(place.home / "knowledge")
    line = refused(place, command, "generate", "--model", "all", QUESTION, "--config", place.run_file())
    assert "onceedit edit" in line


def test_a_full_disk(place: Place, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, folder: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    run_file = place.run_file(editing=EDITING | {"seed": 1})
    assert "the disk is full" in refused(place, command, "edit", "--config", run_file)


def test_ctrl_c(place: Place, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, *_: object) -> None:
        raise KeyboardInterrupt

    before = place.made()
    monkeypatch.setattr(OnceEditEditor, "run", interrupted)
    code, out, err = command("edit", "--config", place.run_file(editing=EDITING | {"seed": 1}))
    assert (code, out) == (130, "")
    assert err.splitlines()[-1].startswith("interrupted")
    assert place.made() == before
