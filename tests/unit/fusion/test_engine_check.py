"""What an engine cannot do is refused before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from onceedit_ray.config import RunConfig, parse_config
from onceedit_ray.errors import ConfigError
from onceedit_ray.fusion.engine_check import check_engines
from onceedit_ray.models.engines import ENGINES

SERVED = {"engine": "openai", "url": "http://127.0.0.1:8000/v1"}


def run(target: Any, **more: Any) -> RunConfig:
    values = {
        "name": "engines", "knowledge": {"path": "edits.jsonl"}, "plugin": "smollm2-135m",
        "targets": {"llama": target}, "editing": {"editor": "reader"}, "fusion": {"strategy": "selective"},
    }  # fmt: skip
    return parse_config({**values, **more}, "run.yaml")


def test_a_server_writes_only_text() -> None:
    assert ENGINES.names() == ["openai", "openai_tokens", "transformers"]
    assert [name for name in ENGINES.names() if not ENGINES.get(name).distributions] == ["openai"]
    check_engines(run(SERVED))
    check_engines(run("some/model", fusion={"strategy": "draft"}, editing={"editor": "onceedit"}), evaluated=True)


def test_a_server_that_tells_its_tokens_can_do_everything() -> None:
    tokens = SERVED | {"engine": "openai_tokens", "tokenizer": "some/model"}
    check_engines(run(tokens, fusion={"strategy": "draft"}, editing={"editor": "onceedit"}), evaluated=True)


@pytest.mark.parametrize("strategy", ["draft", "calibrated", "unite", "eva"])
def test_a_strategy_that_needs_probabilities(strategy: str) -> None:
    with pytest.raises(ConfigError, match=f"'{strategy}' needs the probabilities of the tokens of 'llama'.*selective"):
        check_engines(run(SERVED, fusion={"strategy": strategy}))


def test_an_editor_whose_plugin_does_not_read_along() -> None:
    with pytest.raises(ConfigError, match="'onceedit' trains one that does not; set"):
        check_engines(run(SERVED, editing={"editor": "onceedit"}))
    check_engines(run(SERVED, editing={"editor": "reader:/some/folder"}))


def test_an_evaluation() -> None:
    with pytest.raises(ConfigError, match="an evaluation needs the probabilities of the tokens of 'llama'"):
        check_engines(run(SERVED), evaluated=True)


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'opneai': did you mean 'openai'"):
        check_engines(run({**SERVED, "engine": "opneai"}))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"engine": "openai"}, "missing key 'targets.llama.model'"),
        ({"engine": "openai", "model": "m"}, "engine openai needs a server's 'url'"),
        ({"engine": "openai", "url": "localhost:8000"}, "needs a server's 'url'.*found 'localhost:8000'"),
        ({"model": "m", "url": "http://h/v1"}, "add 'engine: openai'"),
        ({"model": "m", "key_env": "KEY"}, "add 'engine: openai'"),
    ],
)
def test_entries_of_a_run_file(target: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(target)
    with pytest.raises(ConfigError, match="the plug-in is loaded here"):
        run("m", plugin={"model": "m", **SERVED})
