"""The addresses at which the page may be served, and the errors for others."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
import uvicorn

from onceedit_ray import extras
from onceedit_ray.cli import main
from onceedit_ray.errors import ConfigError
from onceedit_ray.playground import beside
from onceedit_ray.playground.page_guard import PageGuard
from onceedit_ray.playground.server import check_keys_are_asked_for
from onceedit_ray.serving.listening import free_port
from tests.paths import ROOT
from tests.patience import PATIENCE
from tests.small_ingress import Scripted, ingress_of


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an API with the keys of the test's parameter."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(ingress_of(Scripted("x"), keys=request.param), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(30)


@pytest.mark.parametrize("served", [["a-key-for-asking"]], indirect=True)
def test_an_api_with_keys_may_be_used_from_other_machines(served: str) -> None:
    check_keys_are_asked_for(served, "0.0.0.0")


@pytest.mark.parametrize("served", [[]], indirect=True)
def test_an_api_without_keys_may_not(served: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["playground", "--url", served, "--host", "0.0.0.0", "--port", "0"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {served} asks for no key, so its page serves 127.0.0.1 alone")


def test_an_api_that_is_away_is_said() -> None:
    with pytest.raises(ConfigError, match="cannot be reached"):
        check_keys_are_asked_for("http://127.0.0.1:9/v1", "0.0.0.0")


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert main(["playground", "--url", "http://127.0.0.1:9/v1", "--port", str(port)]) == 2
    assert f"127.0.0.1:{port} cannot be listened on" in capsys.readouterr().err
    assert free_port("127.0.0.1", port) == port
    assert free_port("127.0.0.1", 0) > 0


def test_without_its_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(extras.EXTRAS, "playground", ("json", "a_package_that_is_missing"))
    for command in (["playground", "--url", "http://127.0.0.1:9/v1"], ["serve", "--playground"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "needs a_package_that_is_missing; install its extra: pip install 'onceedit-ray[playground]'" in said


def test_the_page_needs_neither_ray_nor_torch() -> None:
    check = "import sys, onceedit_ray.playground.server; print({'ray', 'torch', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


@pytest.mark.parametrize(
    ("host", "origin", "admitted"),
    [
        ("127.0.0.1:8080", None, True),
        ("localhost:8080", "http://localhost:8080", True),
        ("[::1]:8080", "http://[::1]:8080", True),
        ("127.0.0.1:8080", "http://127.0.0.1:8000", False),
        ("127.0.0.1:8080", "null", False),
        ("elsewhere.example:8080", "http://elsewhere.example:8080", False),
        ("127.0.0.1:8080", "http://[", False),
        ("[", None, False),
        ("", None, False),
    ],
)
def test_who_may_speak_to_a_page_of_this_machine(host: str, origin: str | None, admitted: bool) -> None:
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    assert PageGuard(lambda *_: None, local=True).admits(headers) == admitted


def test_a_page_for_other_machines_answers_to_every_name_and_to_its_own_origin_alone() -> None:
    page = PageGuard(lambda *_: None, local=False)
    assert page.admits({"host": "gpu-1:8080", "origin": "http://gpu-1:8080"})
    assert not page.admits({"host": "gpu-1:8080", "origin": "http://elsewhere.example"})


def test_a_page_beside_a_server_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # where it is set, NiceGUI behaves otherwise
    port = free_port("127.0.0.1", 0)
    with beside.page_process("0.0.0.0", 9, port):
        deadline = time.monotonic() + PATIENCE
        while not (said := capfd.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert said == f"the playground of http://127.0.0.1:9/v1 is at http://127.0.0.1:{port}/; Ctrl-C ends it\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as response:
            assert "OnceEdit playground" in response.read().decode()
    assert free_port("127.0.0.1", port) == port, "nobody listens there any more"
