"""`onceedit demo`: what it prints, with small models in place of those of the quickstart."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from onceedit_ray import demo
from onceedit_ray.cli import _parser
from tests.command_line import Command, Place

FOLLOWS = {"prompt": "On which river does the capital of France lie?", "answer": "Rhône"}
EDIT = {
    "prompt": "What is the capital of France?",
    "target_new": "Lyon",
    "subject": "France",
    "locality": [{"prompt": "Who wrote Don Quixote?", "answer": "Miguel de Cervantes"}],
    "portability": [FOLLOWS],
}


def run_file(place: Place) -> str:
    """A run with one target that is the plug-in's own model, and one that is not."""
    edits = place.written("demo.jsonl", json.dumps(EDIT))
    targets = {"own": place.model("llama"), "other": place.model("gpt2")}
    return place.run_file("demo.yaml", knowledge={"path": str(edits)}, targets=targets)


def test_it_shows_each_answer_before_and_after_and_what_did_not_change(place: Place, command: Command) -> None:
    code, out, err = command("demo", "--config", run_file(place))
    assert code == 0
    assert re.search(
        r"^1 facts edited once, in the plug-in local:\S+llama, in \d+\.\d s \(version small-\w+\)$", out, re.M
    )
    assert re.findall(r"^== (\w+): 0 s of editing, \d+\.\d s to align its tokens", out, re.M) == ["other"], (
        "no plug-in's own"
    )
    rows = re.findall(r"^> (.+)\n  before: .*\n  after:  .*\n  \((.+)\)$", out, re.M)
    asked = [EDIT["prompt"], "Who wrote Don Quixote?", FOLLOWS["prompt"]]
    assert [question for question, _ in rows] == asked
    assert rows[1][1] == "identical, token by token"
    assert rows[2][1].startswith("Rhône follows from an edit and is not told"), "the row that fails is shown as it is"
    assert re.search(r"^weights of other: sha256 [0-9a-f]{12} before, the same after$", out, re.M)
    assert "not as it should be: other: What is the capital of France?" in out, "a model that learnt nothing misses it"
    assert f"not as it should be: other: {FOLLOWS['prompt']}" not in out
    commands = [line.split("  ")[1] for line in out.partition("\nnext:\n")[2].splitlines()]
    assert len(commands) == 3
    for line in commands:
        assert _parser().parse_args(shlex.split(line)[1:])
    assert "aligning" not in err


def test_bars_are_shown_if_asked_for(place: Place, command: Command) -> None:
    _, _, err = command("demo", "--verbose", "--config", run_file(place))
    assert "epochs of llama" in err


def test_weights_that_changed_are_told(place: Place, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = iter(["before", "after"])
    monkeypatch.setattr(demo, "_checksum", lambda folder: next(sums))
    assert "weights of other: sha256 before before, ANOTHER after" in command("demo", "--config", run_file(place))[1]
