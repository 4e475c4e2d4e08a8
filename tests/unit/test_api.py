"""`OnceEdit`, the Python class: edit, ask, delete and evaluate with small models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from onceedit_ray import OnceEdit
from onceedit_ray.config import RunConfig, parse_config
from onceedit_ray.errors import ConfigError, DataError, ModelError, OnceEditError
from onceedit_ray.fusion.system import check_run
from tests.families import build_family
from tests.paths import ROOT
from tests.small_edits import EDITS

QUESTION = EDITS[0].prompt


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("api")
    return {
        name: f"local:{build_family(name, folder / name, seed=seed)}" for seed, name in enumerate(("llama", "gpt2"))
    }


@pytest.fixture
def run(models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    (tmp_path / "edits.jsonl").write_text(EDITS[0].model_dump_json() + "\n", encoding="utf-8")
    return parse_config(
        {
            "name": "small",
            "knowledge": {"path": tmp_path / "edits.jsonl"},
            "plugin": models["llama"],
            "targets": {"one": models["gpt2"], "two": models["llama"]},
            "editing": {"max_epochs": 1, "min_epochs": 1, "unrelated_per_epoch": 4},
            "evaluation": {"general_limit": 2, "drift_limit": 1, "portability": False},
            "fusion": {"max_new_tokens": 4},
        },
        "test",
    )


def test_an_edit_is_asked_deleted_and_exactly_gone(run: RunConfig) -> None:
    opened = OnceEdit.open(run, targets=["one"])
    first = opened.version
    before = opened.ask(QUESTION)
    assert before.target == "one" and before.version == first.id
    alone = opened.ask_unedited(QUESTION)
    assert alone.weight is None

    second = opened.edit("Who owns the red mill?", "Nobody", subject="red mill")
    assert second.id != first.id and opened.ask(QUESTION).version == second.id
    assert [edit.prompt for edit in second.edits()] == [QUESTION, "Who owns the red mill?"]

    assert opened.delete("who owns the RED mill?").id == first.id
    assert opened.ask(QUESTION) == before


def test_an_edit_replaces_an_earlier_one_of_its_prompt(run: RunConfig) -> None:
    opened = OnceEdit.open(run)
    opened.edit(QUESTION, "Other")
    assert [edit.target_new for edit in opened.edits] == ["Other"]


def test_messages_are_asked_in_chat_and_a_string_is_continued(run: RunConfig) -> None:
    opened = OnceEdit.open(run, targets=["two"])
    chat = opened.ask([{"role": "user", "content": "Hello?"}])
    assert chat.prompt_tokens > opened.ask("Hello?").prompt_tokens


def test_every_loaded_target_is_scored(run: RunConfig, tmp_path: Path) -> None:
    results = OnceEdit.open(run, targets=["one"]).evaluate(tmp_path / "results")
    assert set(results.summary["targets"]) == {"one"}
    assert (tmp_path / "results" / "small" / "report.md").is_file()


def test_what_it_cannot_do_is_one_clear_line(run: RunConfig) -> None:
    with pytest.raises(ConfigError, match="unknown target 'three': the run file has one, two"):
        OnceEdit.open(run, targets=["three"])
    with pytest.raises(ConfigError, match="no edit has the prompt 'never'"):
        OnceEdit.open(run).delete("never")
    with pytest.raises(OnceEditError, match=r"no run file at nowhere\.yaml"):
        OnceEdit.open("nowhere.yaml")
    with pytest.raises(ConfigError, match=r"is a grid file; use `onceedit compare --config .*paper_table1\.yaml`$"):
        OnceEdit.open(ROOT / "configs" / "paper_table1.yaml")


def test_a_wrong_edit_is_one_line_without_pydantics_words(run: RunConfig) -> None:
    models = OnceEdit.open(run)
    with pytest.raises(DataError, match=r"^the edit: unknown key 'sujbect': did you mean 'subject'\?$"):
        models.edit("Who leads the Harbour Choir?", "Tomas Reed", sujbect="Harbour Choir")
    with pytest.raises(DataError, match=r"^the edit: 'target_new': [^\n]*, found ''$"):
        models.edit("Who leads the Harbour Choir?")
    assert [edit.prompt for edit in models.edits] == [QUESTION]


def test_importing_the_package_loads_neither_ray_nor_torch_nor_matplotlib() -> None:
    heavy = "{'ray', 'torch', 'matplotlib', 'transformers'}"
    code = f"import onceedit_ray, sys; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_class_needs_no_ray(run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That no file of it imports Ray is tested in `test_layering.py`; this is what it opens while it runs."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run.model_dump(mode="json")), encoding="utf-8")
    for module in [name for name in sys.modules if name.partition(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert OnceEdit.open(tmp_path / "run.yaml", targets=["one"]).ask("Hello").target == "one"


@pytest.mark.parametrize("name", ["the plug-in", "two"])
def test_a_context_beyond_a_models_window_is_refused_before_anything_is_edited(run: RunConfig, name: str) -> None:
    long = {"context": 9999}
    changed = {"targets": {**run.targets, "two": run.targets["two"].model_copy(update=long)}}
    if name == "the plug-in":
        changed = {"plugin": run.plugin.model_copy(update=long)}
    check_run(run)
    with pytest.raises(ModelError, match=f"^{name}: context is 9999, but .* holds 256 tokens"):
        check_run(run.model_copy(update=changed))


def test_an_edit_beyond_the_run_files_context_is_refused_before_it_is_trained(run: RunConfig) -> None:
    plugin = run.plugin.model_copy(update={"context": 32})
    models = OnceEdit(run.model_copy(update={"plugin": plugin}), ())
    with pytest.raises(ModelError, match="the plug-in's window holds 32 tokens"):
        models.edit("Who wrote the long chronicle of the kings of the north?", "Ann " * 30)
