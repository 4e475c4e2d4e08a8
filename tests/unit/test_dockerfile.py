"""The Dockerfile, as far as it can be checked without a builder: what it copies is there, and it starts our command."""

from __future__ import annotations

import json
import re
import tomllib

import yaml

from onceedit_ray.cli import _parser
from onceedit_ray.starter import RUN_FILE
from tests.paths import ROOT

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = re.findall(r"^([A-Z]+) ((?:.*\\\n)*.*)$", TEXT, re.MULTILINE)


def arguments(instruction: str) -> list[str]:
    return [argument for name, argument in INSTRUCTIONS if name == instruction]


def test_what_it_copies_is_there_and_sent_to_the_builder() -> None:
    sent = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    copied = [path for line in arguments("COPY") for path in line.split()[:-1]]
    assert copied and set(copied) == sent
    assert [path for path in copied if not (ROOT / path).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml", "constraints.txt"} <= set(copied)


def test_it_starts_the_command_with_a_run_file_that_it_has() -> None:
    (command,) = map(json.loads, arguments("CMD"))
    options = _parser().parse_args(command[1:])
    assert command[0] == "onceedit" and options.config.name == RUN_FILE and (ROOT / options.config).is_file()
    assert options.host == "0.0.0.0" and str(options.port) in arguments("EXPOSE")


def test_it_installs_the_pins_and_the_python_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (base,) = arguments("FROM")
    (python,) = re.findall(r"python:(3\.\d+)", base)
    assert f"Programming Language :: Python :: {python}" in project["classifiers"]
    (install,) = [line for line in arguments("RUN") if "pip install" in line]
    assert "-c constraints.txt" in install and "grep '^torch==' constraints.txt" in install
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", install)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert len([pin for pin in pins if pin.startswith("torch==")]) == 1


def test_the_manifests_start_it_where_it_is() -> None:
    environment = dict(pair.split("=", 1) for line in arguments("ENV") for pair in line.split())
    for path in ("deployments/rayservice.yaml", "examples/vllm/rayservice.yaml"):
        documents = yaml.safe_load_all((ROOT / path).read_text(encoding="utf-8"))
        service = next(document for document in documents if document["kind"] == "RayService")
        (container,) = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
        assert [container["workingDir"]] == arguments("WORKDIR")
        given = {each["name"]: each.get("value") for each in container["env"]}
        assert given["ONCEEDIT_HOME"] == environment["ONCEEDIT_HOME"]
        assert f"docker build -t {container['image']} ." in TEXT
