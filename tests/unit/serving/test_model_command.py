"""`onceedit models add` and `remove`: what they send, and what they say."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from onceedit_ray.cli import main
from onceedit_ray.living import served_api


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    sent: list[tuple[str, str, Any]] = []

    def request(method: str, url: str, json: Any, headers: dict[str, str], timeout: float) -> httpx2.Response:
        sent.append((method, url, json))
        if headers.get("Authorization") != "Bearer admin-key":
            return httpx2.Response(401, json={"error": {"message": "give an administrator's key"}})
        return httpx2.Response(200, json={"id": "qwen", "about": "qwen-7b: chat"})

    monkeypatch.setattr(served_api.httpx2, "request", request)
    return sent


def test_a_target_is_added_and_removed(
    calls: list[tuple[str, str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCEEDIT_ADMIN_KEY", "admin-key")
    assert main(["models", "add", "qwen", "--url", "http://q/v1", "--model", "qwen-7b", "--key-env", "Q"]) == 0
    assert "qwen answers now: qwen-7b: chat" in capsys.readouterr().out
    assert main(["models", "remove", "qwen", "--server", "http://there/v1"]) == 0
    assert "qwen is removed" in capsys.readouterr().out
    settings = {"name": "qwen", "url": "http://q/v1", "model": "qwen-7b", "key_env": "Q"}
    assert calls == [
        ("POST", f"{served_api.SERVER}/models", settings),
        ("DELETE", "http://there/v1/models/qwen", None),
    ]


def test_a_refusal_is_one_line(calls: list[tuple[str, str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "add", "qwen", "--url", "http://q/v1", "--key", "wrong"]) == 2
    assert capsys.readouterr().err == "error: give an administrator's key\n"


def test_no_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "remove", "qwen", "--server", "http://127.0.0.1:9/v1"]) == 2
    assert "give its --server" in capsys.readouterr().err
