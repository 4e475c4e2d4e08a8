"""The editing API over HTTP, with a fake maker: response formats, statuses, limits, and who may edit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from tests.small_ingress import Scripted, client_of, ingress_of
from tests.small_queue import FIRST, SECOND, System, system

EDIT = {"prompt": "Who painted the ceiling?", "target_new": "Marie Curie", "subject": "ceiling"}
ASKING, EDITING = "a-key-that-may-ask", "a-key-that-may-edit"


def api_over(of: System | None, keys: Sequence[str] = (), edit_keys: Sequence[str] = (), **limits: Any) -> FastAPI:
    backend = Scripted("a")
    backend.knowledge = of.living if of else None
    return ingress_of(backend, keys, edit_keys, **limits)


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_an_edit_from_the_call_to_live_to_deleted(tmp_path: Path) -> None:
    here = system(tmp_path)
    async with client_of(api_over(here)) as client:
        posted = await client.post("/v1/edits", json=EDIT)
        assert posted.status_code == 202
        batch = posted.json()
        assert set(batch) == {
            "id", "object", "created", "status", "progress", "reason", "version", "report", "data"
        }  # fmt: skip
        assert (batch["object"], batch["status"], batch["progress"]) == ("edit.batch", "queued", 0.0)
        (edit,) = batch["data"]
        assert edit["id"].startswith("edit_") and batch["id"].startswith("batch_")
        assert {name: edit[name] for name in EDIT} == EDIT
        assert (edit["object"], edit["batch"], edit["status"]) == ("edit", batch["id"], "queued")

        await here.settled()
        found = (await client.get(f"/v1/edits/{edit['id']}")).json()
        assert (found["status"], found["progress"], found["version"]) == ("live", 1.0, here.loader.live)
        whole = (await client.get(f"/v1/edits/{batch['id']}")).json()
        assert (whole["status"], whole["report"], whole["data"]) == ("live", {"learnt": 1.0}, [found])

        removed = await client.delete(f"/v1/edits/{edit['id']}")
        assert removed.status_code == 202 and removed.json()["status"] == "deleting"
        await here.settled()
        assert (await client.get(f"/v1/edits/{edit['id']}")).json()["status"] == "deleted"


async def test_edits_are_listed_newest_first_by_page_and_by_status(tmp_path: Path) -> None:
    here = system(tmp_path)
    async with client_of(api_over(here)) as client:
        body = {"edits": [{**EDIT, "prompt": f"{EDIT['prompt']} {number}"} for number in range(3)]}
        await client.post("/v1/edits", json=body)
        listed = (await client.get("/v1/edits")).json()
        prompts = [edit["prompt"] for edit in listed["data"]]
        assert prompts == [*(edit["prompt"] for edit in reversed(body["edits"])), FIRST.prompt]
        assert listed["object"] == "list" and listed["has_more"] is False
        page = (await client.get("/v1/edits", params={"limit": 2})).json()
        assert page["data"] == listed["data"][:2] and page["has_more"] is True
        rest = (await client.get("/v1/edits", params={"limit": 2, "after": page["data"][-1]["id"]})).json()
        assert rest["data"] == listed["data"][2:] and rest["has_more"] is False
        live = (await client.get("/v1/edits", params={"status": "live"})).json()
        assert [edit["prompt"] for edit in live["data"]] == [FIRST.prompt]
        for params in ({"status": "gone"}, {"limit": "0"}, {"limit": "x"}):
            assert (await client.get("/v1/edits", params=params)).status_code == 400
        assert (await client.get("/v1/edits", params={"after": "edit_0"})).status_code == 404


async def test_versions_are_listed_and_activated(tmp_path: Path) -> None:
    here = system(tmp_path)
    first = here.loader.live
    async with client_of(api_over(here)) as client:
        await client.post("/v1/edits", json=EDIT)
        await here.settled()
        new, old = (await client.get("/v1/versions")).json()["data"]
        assert set(new) == {"id", "object", "created", "active", "edits", "base_model", "parent", "report"}
        assert (new["active"], new["edits"], new["parent"], new["report"]) == (True, 2, first, {"learnt": 1.0})
        assert (old["id"], old["active"], old["parent"], old["report"]) == (first, False, None, None)
        back = await client.post(f"/v1/versions/{first}/activate")
        assert (back.status_code, back.json()) == (200, {**old, "active": True})
        assert here.targets() == [FIRST.target_new]


async def test_a_version_is_shown_with_its_edits_and_deleted_once_nothing_needs_it(tmp_path: Path) -> None:
    here = system(tmp_path)
    first = here.loader.live
    async with client_of(api_over(here)) as client:
        await client.post("/v1/edits", json=EDIT)
        await here.settled()
        new, _ = (await client.get("/v1/versions")).json()["data"]
        shown = (await client.get(f"/v1/versions/{new['id']}")).json()
        told = shown.pop("data")
        assert shown == new and [each["prompt"] for each in told] == [FIRST.prompt, EDIT["prompt"]]
        assert set(told[0]) == set(FIRST.model_dump()), "an edit's own fields"
        answers = await client.delete(f"/v1/versions/{new['id']}")
        assert answers.status_code == 409 and "answers now" in answers.json()["error"]["message"]
        parent = await client.delete(f"/v1/versions/{first}")
        assert parent.status_code == 409 and "is in use" in parent.json()["error"]["message"]
        await client.post(f"/v1/versions/{first}/activate")
        gone = await client.delete(f"/v1/versions/{new['id']}")
        assert (gone.status_code, gone.json()) == (200, {"id": new["id"], "object": "version", "deleted": True})
        assert [each["id"] for each in (await client.get("/v1/versions")).json()["data"]] == [first]
        for method in ("GET", "DELETE"):
            assert (await client.request(method, f"/v1/versions/{new['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"prompt": "Who?"}, "invalid_value"),
        ({**EDIT, "target_new": " "}, "invalid_value"),
        ({**EDIT, "target": "x"}, "unknown_parameter"),
        ({**EDIT, "rephrasings": "one"}, "invalid_value"),
        ({"edits": []}, "invalid_value"),
        ({"edits": [EDIT], "prompt": "x"}, "unknown_parameter"),
        ({"edits": [EDIT, {**EDIT, "target_new": "Homer"}]}, "conflicting_edits"),
        ({"edits": [{**EDIT, "prompt": str(number)} for number in range(4)]}, "too_many_edits"),
        ({**EDIT, "prompt": "x" * 101}, "edit_too_long"),
        ({**EDIT, "locality": [{"prompt": "x", "answer": "y" * 101}]}, "edit_too_long"),
        ({**EDIT, "rephrasings": ["a", "b", "c"]}, "too_many_probes"),
        ([EDIT], "invalid_value"),
        ("text", "invalid_value"),
    ],
)
async def test_a_body_that_is_no_edit_is_refused_in_openais_shape(tmp_path: Path, body: Any, code: str) -> None:
    async def check() -> httpx2.Response:
        api = api_over(system(tmp_path), edits=3, edit_chars=100, edit_probes=2)
        async with client_of(api) as client:
            return await client.post("/v1/edits", json=body)

    refused = await check()
    assert refused.status_code == 400
    assert (
        set(refused.json()["error"]) == {"message", "type", "param", "code"} and refused.json()["error"]["code"] == code
    )


@pytest.mark.parametrize(
    ("field", "given", "param"),
    [
        ("rephrasings", ["", "c"], "rephrasings"),
        ("locality", [{"prompt": " ", "answer": "x"}], "locality[0].prompt"),
        ("portability", [{"prompt": "\t", "answer": "x"}], "portability[0].prompt"),
    ],
)
async def test_a_text_that_asks_nothing_is_refused_by_its_field(
    tmp_path: Path, field: str, given: list[Any], param: str
) -> None:
    async with client_of(api_over(system(tmp_path))) as client:
        refused = await client.post("/v1/edits", json={**EDIT, field: given})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
        assert "blank" in refused.json()["error"]["message"]


async def test_what_is_not_there_is_404_and_what_cannot_be_is_409(tmp_path: Path) -> None:
    here = system(tmp_path)
    here.maker.refused[SECOND.target_new] = "not learnt"
    batch = await here.living.submit([SECOND])
    await here.settled()
    async with client_of(api_over(here)) as client:
        answers = [
            await client.get("/v1/edits/edit_0"),
            await client.delete("/v1/edits/batch_0"),
            await client.post("/v1/versions/none/activate"),
            await client.delete(f"/v1/edits/{batch.id}"),
        ]
    assert [answer.status_code for answer in answers] == [404, 404, 404, 409]
    assert all(answer.json()["error"]["message"] for answer in answers)


async def test_a_server_that_edits_nothing_says_so() -> None:
    async def check() -> httpx2.Response:
        async with client_of(api_over(None)) as client:
            return await client.get("/v1/versions")

    answer = await check()
    assert answer.status_code == 501 and "not edited" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("keys", "edit_keys", "given", "asking", "editing"),
    [
        ((), (), None, 200, 200),
        ((ASKING,), (), ASKING, 200, 403),
        ((ASKING,), (), None, 401, 403),
        ((ASKING,), (EDITING,), ASKING, 200, 403),
        ((ASKING,), (EDITING,), EDITING, 401, 200),
        ((ASKING,), (EDITING,), "some-other-key", 401, 401),
        ((), (EDITING,), None, 200, 401),
        ((), (EDITING,), EDITING, 200, 200),
    ],
)
def test_keys_for_asking_and_for_editing_are_apart(
    tmp_path: Path, keys: Sequence[str], edit_keys: Sequence[str], given: str | None, asking: int, editing: int
) -> None:
    async def check() -> None:
        headers = bearing(given) if given else {}
        async with client_of(api_over(system(tmp_path), keys, edit_keys), headers=headers) as client:
            assert (await client.get("/v1/models")).status_code == asking
            for path in ("/v1/edits", "/v1/versions", "/v1/edits/"):
                found = await client.get(path, follow_redirects=True)
                assert found.status_code == editing, path
                if editing == 403 and not edit_keys:
                    assert "ONCEEDIT_EDIT_KEYS" in found.json()["error"]["message"]

    asyncio.run(check())


def test_the_schema_names_the_editing_routes(tmp_path: Path) -> None:
    schema = api_over(system(tmp_path)).openapi()
    assert {"/v1/edits", "/v1/edits/{id}", "/v1/versions", "/v1/versions/{id}/activate"} <= set(schema["paths"])
    assert "BatchView" in str(schema["paths"]["/v1/edits"]["post"]["responses"]["202"])


async def test_a_full_queue_says_when_to_try_again_and_takes_edits_once_it_is_made(tmp_path: Path) -> None:
    here = system(tmp_path, queued=3)
    edits = [{**EDIT, "prompt": f"Question {number}?"} for number in range(4)]
    async with client_of(api_over(here)) as client:
        assert (await client.post("/v1/edits", json={"edits": edits[:2]})).status_code == 202
        refused = await client.post("/v1/edits", json={"edits": edits[2:]})
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
        assert error["message"].startswith("2 edits are queued")
        queued = (await client.get("/v1/edits", params={"status": "queued"})).json()["data"]
        assert len(queued) == 2, "a refused call leaves nothing behind"
        assert (await client.post("/v1/edits", json=edits[2])).status_code == 202
        await here.settled()
        assert (await client.post("/v1/edits", json={"edits": edits[2:]})).status_code == 202
