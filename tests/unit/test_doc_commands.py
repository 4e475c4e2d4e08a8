"""Every command that a page shows is one that its program takes, and is run somewhere, or its block says why not.

Nothing is run here: the arguments go through the program's own parser, files and routes are looked for. Most commands
run in `tests/ray/test_documented_commands.py`, others in the file that `RUN_BY` names. A comment before a block,
`<!-- not tried: why -->`, is for those that need what no test has.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from onceedit_ray.cli import _parser
from onceedit_ray.living.edit_views import EditBody
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.limits import Limits
from onceedit_ray.serving.schema import ChatRequest, CompletionRequest
from tests.documented_commands import COMMANDS, RUN_HERE, Shown
from tests.paths import ROOT
from tests.small_ingress import Scripted

BODIES = {
    "/v1/completions": TypeAdapter(CompletionRequest),
    "/v1/chat/completions": TypeAdapter(ChatRequest),
    "/v1/edits": TypeAdapter(EditBody),
}


def wrong(words: list[str]) -> str:
    """What is wrong with a command; "" if nothing is. Raises `KeyError` for a program that no check here knows."""
    program, *arguments = words
    return CHECKS[program](arguments)


def wrong_onceedit(arguments: list[str]) -> str:
    try:
        _parser().parse_args(arguments)
    except SystemExit:
        return f"onceedit takes no {' '.join(arguments)}"
    return ""


def wrong_python(arguments: list[str]) -> str:
    """A script or module of the checkout, and options that its source declares."""
    if arguments[0] == "-m":
        file, rest = ROOT / f"{arguments[1].replace('.', '/')}.py", arguments[2:]
    else:
        file, rest = ROOT / arguments[0], arguments[1:]
    if not file.is_file():
        return f"there is no {file.relative_to(ROOT)}"
    return _undeclared(file, {word.partition("=")[0] for word in rest if word.startswith("--")})


def _undeclared(file: Path, options: set[str]) -> str:
    """The options that neither a file nor what it imports from this repository spells."""
    texts = [file.read_text(encoding="utf-8")]
    for node in ast.walk(ast.parse(texts[0])):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.partition(".")[0] in ("benchmarks", "onceedit_ray")
        ):
            inner = ROOT / f"{node.module.replace('.', '/')}.py"
            texts += [inner.read_text(encoding="utf-8")] if inner.is_file() else []
    missing = sorted(option for option in options if not any(f'"{option}"' in text for text in texts))
    return f"{file.name} has no option {', '.join(missing)}" if missing else ""


def wrong_make(arguments: list[str]) -> str:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return "".join(f"there is no make {each}" for each in arguments if "=" not in each and f"\n{each}:" not in makefile)


def wrong_pip(arguments: list[str]) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"onceedit-ray\[([\w,]+)\]", " ".join(arguments)):
        if unknown := set(extras.split(",")) - set(project["optional-dependencies"]):
            return f"there is no extra {min(unknown)}"
    return "" if arguments[0] == "install" else f"pip {arguments[0]} is not shown to users"


def wrong_curl(arguments: list[str]) -> str:
    """A route of the API with its method; the body of a POST is one that the route takes."""
    (url,) = [word for word in arguments if re.match(r"(https?://)?(localhost|127\.0\.0\.1)", word)]
    path = re.sub(r"^(https?://)?[^/]+", "", url).partition("?")[0]
    body = next((value for flag, value in pairwise(arguments) if flag == "-d"), None)
    method = next((value for flag, value in pairwise(arguments) if flag == "-X"), "")
    method = method or ("GET" if body is None else "POST")
    api = build_ingress(Scripted("no"), Limits(), Keys())
    routes = {(each, re.sub(r"\{\w+(:path)?\}", "[^/]+", route.path)) for route in api.routes for each in route.methods}  # type: ignore[attr-defined]
    if not any(each == method and re.fullmatch(route, path) for each, route in routes):
        return f"the API has no {method} {path}"
    if body is not None:
        BODIES[path].validate_python(json.loads(body))
    return ""


CHECKS = {
    "onceedit": wrong_onceedit, "python": wrong_python, "make": wrong_make, "pip": wrong_pip, "curl": wrong_curl,
    ".": lambda arguments: "" if arguments == [".venv/bin/activate"] else "not the environment of `make venv`",
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_of_a_page_is_one_that_its_program_takes(command: Shown) -> None:
    if command.words[0] in CHECKS:
        assert wrong(command.words) == ""
        return
    assert command.run_by or len(command.why) > 10, (
        "no check knows this program: add one, or <!-- not tried: why --> before the block"
    )
    files = [word for word in command.words if re.search(r"\.(ya?ml|py|sh)$", word) and word != "my.yaml"]
    assert [file for file in files if not (ROOT / file).is_file()] == []
    if "--" in command.words:  # what a cluster is to run is ours again
        assert wrong(command.words[command.words.index("--") + 1 :]) == ""


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_of_a_page_is_run_or_its_block_says_why_not(command: Shown) -> None:
    if command.why:
        assert len(command.why) > 10
    elif command.run_by is not None:
        file, words = command.run_by
        assert words in (ROOT / file).read_text(encoding="utf-8")
    else:
        assert command.line.startswith(RUN_HERE), "run it in tests/ray/test_documented_commands.py, or say why not"


def test_the_pages_show_commands_of_every_kind() -> None:
    assert len(COMMANDS) > 50 and {command.words[0] for command in COMMANDS} >= set(CHECKS)


@pytest.mark.parametrize(
    "line",
    [
        "onceedit forget all",
        "onceedit edit --confg my.yaml",
        "python -m benchmarks.conversation --fresh",
        "python -m benchmarks.conversations --frsh",
        "python jobs/edit.py",
        "make dmeo",
        "pip install 'onceedit-ray[server]'",
        "curl -s localhost:8000/v1/edit -d '{}'",
        "curl -s -X PUT localhost:8000/v1/edits",
    ],
)
def test_what_no_program_takes_is_found(line: str) -> None:
    assert wrong(shlex.split(line))


def test_a_body_that_no_route_takes_is_found() -> None:
    with pytest.raises(ValueError, match="target_new"):
        wrong(shlex.split("""curl localhost:8000/v1/edits -d '{"prompt": "Who?"}'"""))
