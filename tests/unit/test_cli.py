"""The command `onceedit`: what it prints and how it exits."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onceedit_ray import __version__
from onceedit_ray.cli import _parser, main
from onceedit_ray.config import load_config
from onceedit_ray.fusion.system import open_decoder
from tests.command_line import EDITING, QUESTION, Command, Place
from tests.paths import ROOT


def commands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command that can be run, by its words."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for each in inner:
        for word, choice in each.choices.items():
            yield from commands(choice, f"{name} {word}".strip())
    if not inner:
        yield name, parser


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


def test_the_package_is_the_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "onceedit_ray", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert (ended.returncode, ended.stdout) == (0, f"onceedit {__version__}\n")


def test_models_can_be_listed_and_fetched(place: Place, command: Command) -> None:
    code, out, _ = command("models", "list")
    assert code == 0 and "smollm2-135m" in out and "gemma-3-270m" in out and "hub:" in out
    reference = f"local:{place.models / 'gpt2'}"
    assert command("models", "fetch", reference)[:2] == (0, f"{reference}  {place.models / 'gpt2'}\n")


def test_listings_are_json_for_programs(place: Place, command: Command) -> None:
    listed = json.loads(command("models", "list", "--json")[1])
    assert "smollm2-135m" in listed["catalogue"] and set(listed) == {"catalogue", "sources", "engines"}
    run = json.loads(command("validate", place.run_file(), "--json")[1])
    assert (run["kind"], run["valid"], run["edits"], run["targets"]) == ("run", True, 2, ["one", "two"])


def test_every_listing_has_json() -> None:
    """Whatever is called `list` or `show`, and `validate`."""
    found = {name: parser for name, parser in commands(_parser()) if name.split()[-1] in ("list", "show", "validate")}
    assert {"models list", "versions list", "versions show", "edits list", "validate"} <= set(found)
    assert [name for name, parser in found.items() if "--json" not in parser._option_string_actions] == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_can_complete_it(shell: str, command: Command) -> None:
    pytest.importorskip("shtab")
    code, script, _ = command("completion", shell)
    assert code == 0 and "onceedit" in script
    assert all(name in script for name in ("validate", "generate", "--max-new-tokens", "activate"))


def test_bash_takes_the_completion(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    script = tmp_path / "completion.bash"
    script.write_text(command("completion", "bash")[1])
    complete = 'COMP_WORDS=(onceedit ver); COMP_CWORD=1; _shtab_onceedit; echo "${COMPREPLY[@]}"'
    found = subprocess.run(["bash", "-c", f"source {script}; {complete}"], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["versions"]


def test_a_reader_that_stops_reading_is_no_error() -> None:
    command = "from onceedit_ray.cli import main; import sys; sys.exit(main(['completion', 'zsh']))"
    piped = f'set -o pipefail; {sys.executable} -c "{command}" | true'
    ended = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in ended.stderr and "BrokenPipe" not in ended.stderr


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
    assert code == 0 and "epochs of llama: 1/1" in err
    assert place.store.active_id() == out.strip() != version.id


def test_generate_shows_every_targets_answer_side_by_side(place: Place, command: Command) -> None:
    run_file = place.run_file()
    version = place.store.active()
    assert version is not None
    decoder = open_decoder(load_config(run_file), version.path)
    edited = {name: asyncio.run(decoder.generate(name, QUESTION)) for name in ("one", "two")}
    own = {name: asyncio.run(decoder.generate(name, QUESTION, "unedited")) for name in ("one", "two")}
    alone = {name: ", the target alone" if answer.alone else "" for name, answer in edited.items()}

    code, out, _ = command("generate", "--model", "all", "--unedited", QUESTION, "--config", run_file)
    assert code == 0
    assert out.split("\n") == [
        line
        for name in ("one", "two")
        for line in (
            f"{name} (unedited): {own[name].text.strip()}",
            f"{name} (edited once, w = {edited[name].weight:.3f}{alone[name]}): {edited[name].text.strip()}",
        )
    ] + [""]
    assert command("generate", "--model", "two", QUESTION, "--config", run_file)[1] == out.splitlines()[3] + "\n"


def test_the_run_file_decides_which_version_answers(place: Place, command: Command) -> None:
    """Evaluating another run file activates nothing, and editing with it leaves this run file's answers alone."""
    mine, other = place.run_file(), place.run_file("other.yaml", editing=EDITING | {"seed": 5})
    (version,) = place.store.versions()
    asked = ("generate", "--model", "one", QUESTION, "--config")
    before = command(*asked, mine)
    assert f"version {version.id}" in before[2]
    command("evaluate", "--config", other, "--results", str(place.folder / "results"))
    assert place.store.active_id() == version.id and len(place.store.versions()) == 2
    assert "version " in (of_other := command(*asked, other)[2]) and version.id not in of_other
    command("edit", "--config", other)
    after = command(*asked, mine)
    assert after[1] == before[1] and f"version {version.id}" in after[2]


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
    code, out, err = command("evaluate", "--config", place.run_file(), "--results", str(place.folder / "results"))
    assert code == 0 and f"version {place.store.versions()[0].id} answers\n" in err
    folder = place.folder / "results" / "small"
    names = {path.name for path in folder.iterdir()}
    assert names == {"records.parquet", "gate.parquet", "summary.json", "report.md", "scores.png", "gate.png"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["edits"] == 2 and set(summary["targets"]) == {"one", "two"}
    assert summary["plugin"] == place.store.versions()[0].id
    assert "onceedit evaluate --config" in (folder / "report.md").read_text()
    assert out.rstrip().endswith(f"results: {folder}")
