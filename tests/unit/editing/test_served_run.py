"""A run without a run file: the targets of the command line, and a version without edits to begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from onceedit_ray.config import RunConfig
from onceedit_ray.editing.served_run import run_of, servers_of
from onceedit_ray.errors import ConfigError


def test_targets_of_the_command_line() -> None:
    servers = servers_of(["llama=http://h:1/v1", "qwen=https://q/v1,model=org/qwen,key_env=QWEN_KEY"])
    run = run_of(None, servers)
    assert run.targets["llama"].url == "http://h:1/v1" and run.targets["llama"].model == "auto"
    assert (run.targets["qwen"].model, run.targets["qwen"].key_env) == ("org/qwen", "QWEN_KEY")
    assert not run.loaded_targets and run.fusion.strategy == "selective" and run.editing.editor == "reader"


@pytest.mark.parametrize(
    "given", ["llama", "=http://h/v1", "llama=", "llama=http://h/v1,what=1", "llama=http://h/v1,model="]
)
def test_what_names_no_target(given: str) -> None:
    with pytest.raises(ConfigError, match="write NAME=URL"):
        servers_of([given])


def test_a_name_that_is_given_twice() -> None:
    with pytest.raises(ConfigError, match="'a' is given twice"):
        servers_of(["a=http://h/v1", "a=http://i/v1"])


def test_an_address_that_is_none_and_a_name_that_is_reserved() -> None:
    with pytest.raises(ConfigError, match=r"needs a server's 'url'.*found 'h:1/v1'"):
        run_of(None, servers_of(["llama=h:1/v1"]))
    with pytest.raises(ConfigError, match="a target cannot be called 'all'"):
        run_of(None, servers_of(["all=http://h/v1"]))


def test_a_run_file_gets_more_targets(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    values = {
        "name": "mixed", "knowledge": {"path": "edits.jsonl"}, "plugin": "smollm2-135m",
        "targets": {"gemma": "gemma-3-270m"}, "fusion": {"strategy": "selective"},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(values))
    (tmp_path / "edits.jsonl").write_text("")
    run = run_of(file, servers_of(["llama=http://h/v1"]))
    assert isinstance(run, RunConfig) and list(run.targets) == ["gemma", "llama"]
    assert run.knowledge.path == tmp_path / "edits.jsonl", "paths are those beside the run file"
    assert run_of(file, {}).targets == {"gemma": run.targets["gemma"]}
    with pytest.raises(ConfigError, match="has a target 'gemma' already"):
        run_of(file, servers_of(["gemma=http://h/v1"]))
