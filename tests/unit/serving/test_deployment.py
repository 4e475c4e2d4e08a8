"""The ways to start the server: the command, the builder and the YAML. No Ray is started here."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from pydantic import ValidationError
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from onceedit_ray.cli import main
from onceedit_ray.cluster.serve_args import ServeArgs
from onceedit_ray.errors import ConfigError
from onceedit_ray.serving.keys import KEYS_VARIABLE, is_loopback
from tests.paths import ROOT

QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "without API keys only 127.0.0.1 is served, not 0.0.0.0"),
        (("--keys", "/nowhere/keys"), "the keys in /nowhere/keys cannot be read"),
        (("--config", "nowhere.yaml"), "no run file at"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--config", QUICKSTART, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_yaml_is_valid_and_builds_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("onceedit_ray.cluster.serve.own_version", lambda config, store: SimpleNamespace(id="own"))
    settings = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / "deployments" / "serve.yaml").read_text()))
    assert is_loopback(settings.http_options.host), "without keys no other machine is served"
    (application,) = settings.applications
    from deployments import app

    assert application.import_path == "deployments.app:build_app"
    assert isinstance(app.build_app(ServeArgs.model_validate(application.args)), Application)
    assert isinstance(app.app, Application), "`serve build` refuses builders"
    (parameter,) = inspect.signature(app.build_app).parameters.values()
    assert parameter.annotation is ServeArgs, "Serve validates the arguments by the annotation, which must be a class"


def test_arguments_are_checked(tmp_path: Path) -> None:
    from deployments import app

    for wrong in ({"configg": QUICKSTART}, {"replicas": 0}, {"limits": {"in_flght": 1}}, {"limits": {"in_flight": 0}}):
        with pytest.raises(ValidationError):
            ServeArgs.model_validate(wrong)
    with pytest.raises(ConfigError, match="no run file"):
        app.build_app(ServeArgs(config=tmp_path / "none.yaml"))
