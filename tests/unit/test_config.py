"""Run files: their defaults, and the one-line message for each mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from onceedit_ray.config import FusionConfig, ModelConfig, RunConfig, is_grid, load_config, parse_config
from onceedit_ray.errors import ConfigError
from tests.paths import ROOT

RUN_FILES = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if not is_grid(path)]
SMALLEST: dict[str, Any] = {
    "name": "run-1",
    "knowledge": {"path": "edits.jsonl"},
    "plugin": "smollm2-135m",
    "targets": {"gemma": "gemma-3-270m"},
}


def changed(key: str, value: object) -> dict[str, Any]:
    """The smallest run file with one (dotted) key set."""
    values = {**SMALLEST, "targets": {"gemma": {"model": "gemma-3-270m"}}, "plugin": {"model": "smollm2-135m"}}
    *parents, last = key.split(".")
    inner = values
    for parent in parents:
        inner[parent] = dict(inner.get(parent, {}))
        inner = inner[parent]
    inner[last] = value
    return values


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(values, "run.yaml")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("run.yaml: ")
    return message.removeprefix("run.yaml: ")


class TestDefaults:
    def test_a_model_may_be_written_as_its_name(self) -> None:
        config = parse_config(SMALLEST, "run.yaml")
        assert config.plugin.model == "smollm2-135m"
        assert config.plugin.view == "short"
        assert config.targets == {"gemma": ModelConfig(model="gemma-3-270m")}

    def test_short_and_long_forms_mix(self) -> None:
        values = {**SMALLEST, "targets": {"a": "org/a", "b": {"model": "org/b", "num_gpus": 2}}}
        config = parse_config(values, "run.yaml")
        assert (config.targets["a"].model, config.targets["b"].num_gpus) == ("org/a", 2.0)

    def test_what_runs_by_default(self) -> None:
        config = parse_config(SMALLEST, "run.yaml")
        assert (config.fusion.strategy, config.fusion.threshold) == ("draft", 0.5)
        assert config.evaluation.gate_shapes == ("raw", "qa", "template", "chat")
        assert config.knowledge.path == Path("edits.jsonl")
        assert config.alignment.rule == "text"

    def test_reading_a_file_does_not_change_what_was_read(self) -> None:
        values = {**SMALLEST, "targets": dict(SMALLEST["targets"])}
        parse_config(values, "run.yaml")
        assert values == SMALLEST

    def test_settings_cannot_be_changed_afterwards(self) -> None:
        with pytest.raises(ValidationError):
            FusionConfig().threshold = 0.1  # type: ignore[misc]

    @pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.name)
    def test_every_shipped_run_file_is_valid(self, path: Path) -> None:
        assert isinstance(load_config(path), RunConfig)


class TestTypos:
    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("nam", "unknown key 'nam': did you mean 'name'?"),
            ("fusoin", "unknown key 'fusoin': did you mean 'fusion'?"),
            ("fusion.treshold", "unknown key 'fusion.treshold': did you mean 'threshold'?"),
            ("plugin.veiw", "unknown key 'plugin.veiw': did you mean 'view'?"),
            ("targets.gemma.num_gpu", "unknown key 'targets.gemma.num_gpu': did you mean 'num_gpus'?"),
            ("editing.learningrate", "unknown key 'editing.learningrate': did you mean 'learning_rate'?"),
            ("knowledge.limits", "unknown key 'knowledge.limits': did you mean 'limit'?"),
            ("evaluation.stategies", "unknown key 'evaluation.stategies': did you mean 'strategies'?"),
            ("alignment.rules", "unknown key 'alignment.rules': did you mean 'rule'?"),
        ],
    )
    def test_the_key_and_the_nearest_one_are_named(self, key: str, said: str) -> None:
        assert refused(changed(key, 1)) == said

    def test_where_nothing_is_near_all_are_named(self) -> None:
        assert refused(changed("fusion.zzz", 1)) == (
            "unknown key 'fusion.zzz': known are strategy, screen, threshold, top_k, draft_tokens, max_new_tokens"
        )

    def test_a_view_is_the_plugins_alone(self) -> None:
        assert "unknown key 'targets.gemma.view'" in refused(changed("targets.gemma.view", "short"))


class TestValues:
    @pytest.mark.parametrize("key", ["name", "knowledge", "plugin", "targets"])
    def test_a_missing_key_is_named(self, key: str) -> None:
        assert refused({k: v for k, v in SMALLEST.items() if k != key}) == f"missing key '{key}'"

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("fusion.threshold", 1.5, "less than or equal to 1, found 1.5"),
            ("fusion.threshold", "high", "valid number"),
            ("fusion.top_k", 0, "greater than or equal to 1, found 0"),
            ("fusion.draft_tokens", -1, "greater than or equal to 0, found -1"),
            ("fusion.max_new_tokens", 2.5, "valid integer"),
            ("editing.learning_rate", 0, "greater than 0, found 0"),
            ("editing.precision", "int8", "'auto', 'float32' or 'bfloat16', found 'int8'"),
            ("knowledge.on_conflict", "merge", "'first', 'last' or 'first_per_subject', found 'merge'"),
            ("knowledge.limit", 0, "greater than or equal to 1, found 0"),
            ("alignment.own_mass", 1.0, "less than 1, found 1.0"),
            ("alignment.rule", "texts", "'text' or 'paper', found 'texts'"),
            ("evaluation.shape", "faq", "'raw', 'qa', 'template' or 'chat', found 'faq'"),
            ("evaluation.settings", ["greedy"], "'teacher_forced' or 'generation', found 'greedy'"),
            ("targets", {}, "at least 1 item"),
            ("targets", ["gemma"], "should be an object"),
            ("targets.gemma.num_gpus", 1.5, "above 1 it must be a whole number, found 1.5"),
            ("targets.gemma.num_gpus", -1, "greater than or equal to 0"),
            ("targets.gemma.dtype", "fp16", "'float16', found 'fp16'"),
            ("targets.gemma.model", "", "at least 1 character"),
            ("plugin.threads", -2, "greater than or equal to 0"),
            ("name", "../up", "match pattern"),
            ("name", "a" * 81, "at most 80 characters"),
        ],
    )
    def test_a_wrong_value_is_named_and_shown(self, key: str, value: object, said: str) -> None:
        message = refused(changed(key, value))
        assert message.startswith(f"'{key}")
        assert said in message

    @pytest.mark.parametrize("gpus", [0, 0.5, 1, 2, 4.0])
    def test_a_part_of_a_gpu_or_whole_ones(self, gpus: float) -> None:
        assert parse_config(changed("plugin.num_gpus", gpus), "run.yaml").plugin.num_gpus == gpus

    def test_several_mistakes_share_the_line(self) -> None:
        message = refused({**changed("fusion.treshold", 1), "nam": "x", "editing": {"seeds": 1}})
        assert message.count("unknown key") == 3


class TestFiles:
    def write(self, folder: Path, text: str | bytes) -> Path:
        path = folder / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def test_a_file_is_read(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path, "name: r\nknowledge: {path: e.jsonl}\nplugin: p\ntargets:\n  t: m\n  u:\n    model: v\n"
        )
        assert sorted(load_config(path).targets) == ["t", "u"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("name: [unclosed", "is not YAML"),
            ("name: a\n\tb: c", "is not YAML"),
            ("", "holds no settings; expected keys such as name, knowledge"),
            ("- a\n- b", "holds no settings"),
            ("just words", "holds no settings"),
            (b"name: \xff\xfe", "cannot be read"),
            ("nam: r\nknowledge: {path: e}\nplugin: p\ntargets: {t: m}", "did you mean 'name'"),
        ],
    )
    def test_a_file_that_is_none_gets_one_line(self, tmp_path: Path, text: str | bytes, said: str) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(ConfigError) as error:
            load_config(path)
        assert said in str(error.value)
        assert str(error.value).startswith(str(path))
        assert "\n" not in str(error.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no run file at .*run\.yaml; see configs/"):
            load_config(tmp_path / "run.yaml")

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(tmp_path)
