"""`onceedit edits … --config FILE`: the edits of a run file's version, read or trained, change without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onceedit_ray.config import load_config
from onceedit_ray.errors import RefusedError, UnknownIdError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.living.stored_edits import StoredEdits
from onceedit_ray.models.sources import resolve
from onceedit_ray.reader.training_run import ReaderSettings, train_reader
from tests.command_line import EDITS, Command, Place
from tests.reader_source import material

OPEN = {"learnt": 0.0, "kept": 0.0, "locality": 0.0, "false_alarms": 1.0, "near_misses": 1.0, "general_limit": 2}
"""The bounds of random models: what they learn is not tested here."""
NEW = Edit(prompt="Who leads the old choir?", target_new="Rome")
PROMPTS = [edit["prompt"] for edit in EDITS]


@pytest.fixture(scope="module")
def reader(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reader") / "one"
    settings = ReaderSettings(steps=1, batch_size=2, rank=2, frozen_layers=1)
    train_reader(resolve(f"local:{models_folder / 'llama'}"), material(), settings, folder, threads=1)
    return f"reader:{folder}"


@pytest.fixture(params=["read", "trained"])
def run_file(request: pytest.FixtureRequest, place: Place) -> str:
    if request.param == "trained":
        return place.run_file(living=OPEN)
    return place.run_file(living=OPEN, editing={"editor": request.getfixturevalue("reader")})


def prompts(stored: StoredEdits) -> list[str]:
    return [each.edit.prompt for each in stored.live()]


def test_edits_are_added_replaced_and_deleted(run_file: str) -> None:
    stored = StoredEdits(load_config(run_file))
    first = stored.version
    assert prompts(stored) == PROMPTS
    added = stored.add([NEW])
    assert added.id != first.id and stored.version.id == added.id
    assert prompts(stored) == [*PROMPTS, NEW.prompt]
    other = NEW.model_copy(update={"prompt": NEW.prompt.upper(), "target_new": "Berlin"})
    stored.add([other])
    assert prompts(stored) == [*PROMPTS, other.prompt], "another answer to the same question"
    assert stored.add([other]).id == stored.version.id, "nothing new"
    assert prompts(StoredEdits(load_config(run_file))) == [*PROMPTS, other.prompt], "other processes see it"
    stored.delete(NEW.prompt)
    assert prompts(stored) == PROMPTS
    stored.delete(stored.live()[0].id)
    assert prompts(stored) == PROMPTS[1:]


def test_what_is_refused_changes_nothing(run_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = load_config(run_file).model_copy(update={"living": load_config(run_file).living.model_copy(
        update={"learnt": 1.0}
    )})  # fmt: skip
    stored = StoredEdits(strict)
    before = stored.version.id
    with pytest.raises(RefusedError, match="not made live"):
        stored.add([NEW])
    with pytest.raises(UnknownIdError, match="Who are you"):
        stored.delete("Who are you?")
    assert stored.version.id == before and prompts(stored) == PROMPTS


def test_the_command(run_file: str, command: Command) -> None:
    code, said, _ = command("edits", "add", NEW.prompt, NEW.target_new, "--config", run_file)
    assert code == 0 and "has 3 edits, and answers for the run file now" in said
    code, said, _ = command("edits", "list", "--json", "--config", run_file)
    assert code == 0 and [row["prompt"] for row in json.loads(said)] == [NEW.prompt, *reversed(PROMPTS)]
    assert json.loads(said)[0]["target_new"] == NEW.target_new
    code, said, _ = command("edits", "delete", json.loads(said)[0]["id"], "--config", run_file)
    assert code == 0 and "has 2 edits" in said
    code, _, said = command("edits", "delete", "Who are you?", "--config", run_file)
    assert code == 2 and said.count("\n") == 1 and "no live edit has the id or prompt" in said
    code, _, said = command("edits", "add", " ", "x", "--config", run_file)
    assert code == 2 and said.count("\n") == 1 and "prompt" in said
    with pytest.raises(SystemExit, match="2"):
        command("edits", "list", "--config", run_file, "--url", "http://127.0.0.1:9/v1")
