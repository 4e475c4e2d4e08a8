"""The command `onceedit`: what it prints, how it exits, and that bad input costs one line and leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from onceedit_ray import __version__
from onceedit_ray.cli import main
from onceedit_ray.config import load_config
from onceedit_ray.editing.editors.onceedit import OnceEdit
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.knowledge.store import KnowledgeStore
from tests.families import build_family

EDITS = [
    {"prompt": "What is the capital of France?", "target_new": "Lyon", "subject": "France"},
    {"prompt": "The mother tongue of Antonio is", "target_new": "Polish", "rephrasings": ["What does Antonio speak?"]},
]
QUESTION = EDITS[0]["prompt"]
EDITING = {"max_epochs": 1, "min_epochs": 1, "unrelated_per_epoch": 4, "learning_rate": 1e-3, "precision": "float32"}

Command = Callable[..., tuple[int, str, str]]


@dataclass
class Place:
    """A home, the models, and a folder for run files."""

    home: Path
    models: Path
    folder: Path

    def run_file(self, name: str = "run.yaml", **changes: Any) -> str:
        """A run file over small models, with some keys changed."""
        values: dict[str, Any] = {
            "name": "small",
            "knowledge": {"path": str(self.written("edits.jsonl", *map(json.dumps, EDITS)))},
            "plugin": self.model("llama"),
            "targets": {"one": self.model("mistral"), "two": self.model("gpt2")},
            "editing": EDITING,
            "fusion": {"max_new_tokens": 4},
            "evaluation": {"general_limit": 2, "drift_limit": 1, "drift_tokens": 2, "gate_shapes": ["raw"]},
        }
        path = self.folder / name
        path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        return str(path)

    def model(self, name: str) -> dict[str, Any]:
        return {"model": f"local:{self.models / name}", "threads": 1}

    def written(self, name: str, *lines: str) -> Path:
        path = self.folder / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    @property
    def store(self) -> KnowledgeStore:
        return KnowledgeStore(self.home / "knowledge")

    def made(self) -> dict[str, int]:
        """What commands have made: versions and results. What the home remembers to save work is left out."""
        files = [path for path in (*self.home.rglob("*"), *self.folder.rglob("results/*")) if path.is_file()]
        caches = {self.home / "checksums", self.home / "alignments"}
        return {str(path): path.stat().st_mtime_ns for path in files if not caches & set(path.parents)}


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-models")
    for seed, family in enumerate(("llama", "mistral", "gpt2")):
        build_family(family, folder / family, seed=seed)
    build_foreign(folder / "foreign")
    return folder


def build_foreign(folder: Path) -> None:
    """A model whose tokens are whole words of no language, so that it shares none with another."""
    vocab = {"[UNK]": 0, "</s>": 1} | {f"zq{number}xk": number + 2 for number in range(30)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=64, eos_token_id=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def edited_home(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which `onceedit edit` has been run; tests work on copies."""
    home, folder = tmp_path_factory.mktemp("cli-home"), tmp_path_factory.mktemp("cli-edit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCEEDIT_HOME", str(home))
        assert main(["edit", "--config", Place(home, models_folder, folder).run_file()]) == 0
    return home


@pytest.fixture
def place(edited_home: Path, models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A home with one version, a folder to work in."""
    shutil.copytree(edited_home, tmp_path / "home")
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield Place(tmp_path / "home", models_folder, tmp_path / "work")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


# --- what it does ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "COMMAND"),
        (("models",), "ACTION"),
        (("models", "list"), "usage"),
        (("models", "fetch"), "catalogue name"),
        (("validate",), "config"),
        (("edit",), "--config"),
        (("generate",), "'all'"),
        (("evaluate",), "--results"),
    ],
)
def test_every_command_has_help(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [(), ("models",), ("generate", "hello"), ("edti",), ("generate", "--model", "one", "x", "--shape", "y")],
)
def test_a_wrong_command_line_exits_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: onceedit" in capsys.readouterr().err


def test_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"onceedit {__version__}\n")


def test_models_can_be_listed_and_fetched(place: Place, command: Command) -> None:
    code, out, _ = command("models", "list")
    assert code == 0 and "smollm2-135m" in out and "gemma-3-270m" in out and "hub:" in out
    reference = f"local:{place.models / 'gpt2'}"
    assert command("models", "fetch", reference)[:2] == (0, f"{reference}  {place.models / 'gpt2'}\n")


def test_validate_checks_without_making_anything(place: Place, command: Command) -> None:
    before = place.made()
    code, out, _ = command("validate", place.run_file())
    assert code == 0
    assert out.startswith("2 edits, ") and "run.yaml is valid" in out and f"local:{place.models / 'gpt2'}" in out
    assert place.made() == before


def test_edit_prints_the_version_and_finds_it_again(place: Place, command: Command) -> None:
    """The version was made from another folder's run file with the same content."""
    (version,) = place.store.versions()
    code, out, err = command("edit", "--config", place.run_file())
    assert (code, out) == (0, f"{version.id}\n")
    assert "made before" in err
    code, out, err = command("edit", "--config", place.run_file(editing=EDITING | {"seed": 9}))
    assert code == 0 and "epoch  1/1" in err
    assert place.store.active_id() == out.strip() != version.id


def test_generate_shows_every_targets_answer_side_by_side(place: Place, command: Command) -> None:
    run_file = place.run_file()
    version = place.store.active()
    assert version is not None
    decoder = open_decoder(load_config(run_file), version.path)
    edited = {name: asyncio.run(decoder.generate(name, QUESTION)) for name in ("one", "two")}
    own = {name: asyncio.run(decoder.generate(name, QUESTION, "unedited")) for name in ("one", "two")}

    code, out, _ = command("generate", "--model", "all", "--unedited", QUESTION, "--config", run_file)
    assert code == 0
    assert out.split("\n") == [
        line
        for name in ("one", "two")
        for line in (
            f"{name} (edited once, w = {edited[name].weight:.3f}): {edited[name].text.strip()}",
            f"{name} (unedited): {own[name].text.strip()}",
        )
    ] + [""]
    assert command("generate", "--model", "two", QUESTION, "--config", run_file)[1] == out.splitlines()[2] + "\n"


def test_generate_takes_shape_strategy_length_and_version(place: Place, command: Command) -> None:
    (version,) = place.store.versions()
    code, out, _ = command(
        "generate", "--model", "one", "--shape", "template", "--strategy", "onceedit", "--max-new-tokens", "1",
        "--version", version.id, QUESTION, "--config", place.run_file(),
    )  # fmt: skip
    assert code == 0 and out.startswith("one (edited once, w = ")


def test_generate_can_leave_the_edit_out(place: Place, command: Command) -> None:
    asked = ("generate", "--model", "one", "--strategy", "unedited", QUESTION, "--config", place.run_file())
    code, out, _ = command(*asked)
    assert code == 0 and out.startswith("one (unedited): ")


def test_evaluate_writes_the_results(place: Place, command: Command) -> None:
    code, out, _ = command("evaluate", "--config", place.run_file(), "--results", str(place.folder / "results"))
    assert code == 0
    folder = place.folder / "results" / "small"
    names = {path.name for path in folder.iterdir()}
    assert names == {"records.parquet", "gate.parquet", "summary.json", "report.md", "scores.png", "gate.png"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["edits"] == 2 and set(summary["targets"]) == {"one", "two"}
    assert summary["plugin"] == place.store.active_id()
    assert "onceedit evaluate --config" in (folder / "report.md").read_text()
    assert out.rstrip().endswith(f"results: {folder}")


# --- bad input -------------------------------------------------------------------------------------------------------


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
    assert "configs/quickstart.yaml" in refused(place, command, "edit"), "the default, where there is none"
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


def test_an_unknown_model(place: Place, command: Command) -> None:
    unknown = place.run_file(plugin="smollm2-135")
    assert "did you mean 'smollm2-135m'?" in refused(place, command, "edit", "--config", unknown)
    assert "did you mean 'smollm2-135m'?" in refused(place, command, "models", "fetch", "smollm2-135")
    asked = ("generate", "--model", "one", "Q", "--config")
    assert "there is no folder" in refused(place, command, *asked, place.run_file(targets={"one": "./nowhere"}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": {"one": "smollm2-135"}}, "did you mean 'smollm2-135m'?"),
        ({"evaluation": {"strategies": ["drafts"]}}, "did you mean 'draft'?"),
        ({"targets": {"foreign": None}}, "none in common"),
    ],
    ids=["model of a target", "strategy", "no common tokens"],
)
def test_what_an_evaluation_needs_is_looked_for_before_the_edit(
    changes: dict[str, Any], said: str, place: Place, command: Command
) -> None:
    """An edit takes minutes; nothing that is wrong with what follows waits until it is over."""
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
    assert "none in common" in line and "llama" in line and "foreign" in line


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
    """The active version was made of the llama: its tokens mean nothing to a run file with another plug-in."""
    other = place.run_file(plugin=place.model("gpt2"), targets={"one": place.model("mistral")})
    line = refused(place, command, "generate", "--model", "one", QUESTION, "--config", other)
    assert "plug-in" in line and "onceedit edit" in line


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
    monkeypatch.setattr(OnceEdit, "run", interrupted)
    code, out, err = command("edit", "--config", place.run_file(editing=EDITING | {"seed": 1}))
    assert (code, out) == (130, "")
    assert err.splitlines()[-1].startswith("interrupted")
    assert place.made() == before
