"""`onceedit versions` on a store, `onceedit edits` on a server's API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from onceedit_ray.cli import main
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.living import served_api
from tests.small_versions import EDITS, manifest, weights


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnowledgeStore:
    """Two versions, of which the first is active."""
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path))
    store = KnowledgeStore(tmp_path / "knowledge")
    for id in ("one", "two"):
        store.commit(manifest(id), EDITS, weights)
    store.activate("one")
    return store


def test_versions_are_listed_shown_activated_and_deleted(
    store: KnowledgeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["versions", "list", "--json"]) == 0
    assert [(row["id"], row["active"]) for row in json.loads(capsys.readouterr().out)] == [
        ("two", False),
        ("one", True),
    ]
    assert main(["versions", "show", "two"]) == 0
    assert EDITS[0].prompt in capsys.readouterr().out
    assert main(["versions", "activate", "two"]) == 0 and store.active_id() == "two"
    assert main(["versions", "delete", "two"]) == 2
    assert "in use" in capsys.readouterr().err
    assert main(["versions", "delete", "one"]) == 0
    assert [version.id for version in store.versions()] == ["two"]
    assert main(["versions", "delete", "one"]) == 2
    assert "no version 'one'" in capsys.readouterr().err


Answering = Callable[[str, str, object], httpx2.Response]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, object]]:
    """What is sent to a server, which answers each edit as live and has two pages of edits."""
    sent: list[tuple[str, str, object]] = []

    def request(method: str, url: str, json: object, headers: dict[str, str], timeout: float) -> httpx2.Response:
        sent.append((method, url, json))
        if headers.get("Authorization") != "Bearer key":
            return httpx2.Response(401, json={"error": {"message": "a key is needed"}})
        edit = {"id": "edit_1", "status": "live", "replaces": ["edit_0"], "prompt": "Who?", "target_new": "Ann"}
        if "/versions/" in url:
            return httpx2.Response(200, json={"id": "v 1", "active": True, "parent": None, "data": [edit]})
        if method == "GET":
            return httpx2.Response(200, json={"data": [edit], "has_more": "after" not in url})
        return httpx2.Response(200, json={"data": [edit]} if method == "POST" else {**edit, "status": "deleted"})

    monkeypatch.setattr(served_api.httpx2, "request", request)
    return sent


def test_edits_are_added_listed_and_deleted(
    calls: list[tuple[str, str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edits", "add", "Who?", "Ann", "--key", "key"]) == 0
    assert calls[0][:2] == ("POST", f"{served_api.SERVER}/edits")
    assert "in place of edit_0" in capsys.readouterr().out
    (tmp_path / "facts.jsonl").write_text('{"prompt": "A?", "target_new": "b"}\n{"prompt": "C?", "target_new": "d"}\n')
    assert main(["edits", "add", "--file", str(tmp_path / "facts.jsonl"), "--key", "key", "--url", "http://x/v1"]) == 0
    assert calls[1] == (
        "POST",
        "http://x/v1/edits",
        {"edits": [{"prompt": "A?", "target_new": "b"}, {"prompt": "C?", "target_new": "d"}]},
    )
    at_a_uri = ["--file", f"file://{tmp_path}/facts.jsonl"]
    assert main(["edits", "add", *at_a_uri, "--key", "key", "--url", "http://x/v1"]) == 0 and calls[2] == calls[1]
    capsys.readouterr()
    assert main(["edits", "list", "--json", "--key", "key"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2, "both pages"
    assert main(["edits", "delete", "edit_1", "--key", "key"]) == 0
    assert "deleted" in capsys.readouterr().out


def test_a_servers_versions_are_listed_shown_activated_and_deleted(
    calls: list[tuple[str, str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["--url", "http://x/v1", "--key", "key"]
    assert main(["versions", "list", "--json", *there]) == 0
    capsys.readouterr()
    assert main(["versions", "show", "v 1", *there]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["id           v 1", "active       True", "parent       None"]
    assert lines[-1].split() == ["Who?", "Ann"]
    assert main(["versions", "show", "v 1", "--json", *there]) == 0
    assert json.loads(capsys.readouterr().out)["data"][0]["prompt"] == "Who?"
    assert main(["versions", "activate", "v 1", *there]) == 0
    assert main(["versions", "delete", "v 1", *there]) == 0
    assert capsys.readouterr().out.splitlines() == ["v 1 answers now", "v 1 is deleted"]
    assert [(method, url) for method, url, _ in calls] == [
        ("GET", "http://x/v1/versions?limit=1000"),
        ("GET", "http://x/v1/versions/v%201"),
        ("GET", "http://x/v1/versions/v%201"),
        ("POST", "http://x/v1/versions/v%201/activate"),
        ("DELETE", "http://x/v1/versions/v%201"),
    ]


def test_what_goes_wrong_is_one_line(
    calls: list[tuple[str, str, object]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["edits", "list"]) == 2
    assert capsys.readouterr().err == "error: a key is needed\n"
    assert main(["edits", "add", "Who?"]) == 2
    assert "give PROMPT and ANSWER" in capsys.readouterr().err

    def refused(*_: object, **__: object) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    monkeypatch.setattr(served_api.httpx2, "request", refused)
    assert main(["edits", "list"]) == 2
    assert "no server answers at http://127.0.0.1:8000/v1" in capsys.readouterr().err
    monkeypatch.setattr(served_api.httpx2, "request", lambda *_, **__: httpx2.Response(200, text="<html>"))
    assert main(["edits", "list"]) == 2
    assert "not the address of a OnceEdit server" in capsys.readouterr().err
