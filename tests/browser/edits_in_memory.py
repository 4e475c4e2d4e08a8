"""A fake of the editing API with plain dictionaries: no model is trained, and the test decides what happens next."""

from __future__ import annotations

import itertools
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from onceedit_ray.serving.errors import ApiError
from onceedit_ray.serving.keys import Keys

STEPS = ("queued", "training", "evaluating", "live")
REPORT = {"reliability": 1.0, "generality": 0.9444, "locality": {"near": 1.0, "general_text": 0.995}, "old_edits": 12}


class EditsInMemory:
    """Edits and versions; `move` takes an edit to its next state. keys: keys for editing; an empty set admits
    everybody.
    """

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.edits: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.posted: list[dict[str, Any]] = []
        self._clock = itertools.count(1_790_000_000, 60)
        self._publish("small-0123")

    def add(self, **edit: Any) -> str:
        """A queued edit; returns its id."""
        number = len(self.edits) + 1
        made: dict[str, Any] = {
            "id": f"edit_{number:04x}",
            "object": "edit",
            "batch": f"batch_{number:04x}",
            "created": next(self._clock),
            "status": "queued",
            "progress": 0.0,
            "reason": None,
            "version": None,
            "subject": "",
            "rephrasings": [],
            "replaces": [],
        }
        self.edits.insert(0, made | edit)
        return str(made["id"])

    def move(self, edit_id: str, status: str, progress: float = 0.0, reason: str | None = None) -> None:
        """Put an edit into the state that a server would have reached; `live` and `deleted` make a version. As on a
        server, the live edit of the same prompt is recorded when the training begins.
        """
        edit = self.find(edit_id)
        if status == "training":
            live = (each for each in self.edits if each["status"] == "live" and each["prompt"] == edit["prompt"])
            edit["replaces"] = [each["id"] for each in live]
        if status in ("live", "deleted"):
            for replaced in map(self.find, edit["replaces"]):
                replaced.update(
                    status="deleted", reason=f"replaced by {edit_id}, which gives its prompt another answer"
                )
            others = [each for each in self.edits if each["status"] == "live" and each is not edit]
            edit["version"] = self._publish(f"small-{len(self.versions):04d}", len(others) + (status == "live"))
        edit.update(status=status, progress=progress, reason=reason)

    def find(self, edit_id: str) -> dict[str, Any]:
        found = next((edit for edit in self.edits if edit["id"] == edit_id), None)
        if found is None:
            raise ApiError(404, "there is no such edit; GET /v1/edits lists them", "id", "edit_not_found")
        return found

    def activate(self, version_id: str) -> dict[str, Any]:
        if all(version["id"] != version_id for version in self.versions):
            raise ApiError(404, "there is no such version; GET /v1/versions lists them", "id", "version_not_found")
        for version in self.versions:
            version["active"] = version["id"] == version_id
        return next(version for version in self.versions if version["active"])

    def check(self, request: Request) -> None:
        if not self.keys.admits(request.headers.get("authorization", "")):
            raise ApiError(401, "editing needs an editing key: `Authorization: Bearer KEY`", code="invalid_api_key")

    def _publish(self, version_id: str, edits: int = 0) -> str:
        parent = next((version["id"] for version in self.versions if version["active"]), None)
        made = {"id": version_id, "object": "version", "created": next(self._clock), "active": False, "edits": edits,
                "base_model": "small", "parent": parent, "report": REPORT if parent else None}  # fmt: skip
        self.versions.insert(0, made)
        self.activate(version_id)
        return version_id


def add_edit_routes(api: FastAPI, edits: EditsInMemory) -> None:
    """The routes of the contract over `edits`, before any that `api` has for the same paths."""
    known = list(api.router.routes)

    def page_of(limit: int, after: str) -> dict[str, Any]:
        begin = next((at + 1 for at, edit in enumerate(edits.edits) if edit["id"] == after), 0)
        rest = edits.edits[begin:]
        return {"object": "list", "data": rest[:limit], "has_more": len(rest) > limit}

    @api.post("/v1/edits")
    async def add(request: Request) -> JSONResponse:
        edits.check(request)
        body = await request.json()
        if body["prompt"] == body["target_new"]:
            raise ApiError(400, "'target_new': is the prompt itself", "target_new", "invalid_value")
        edits.posted.append(body)
        return JSONResponse(batch_of(edits.find(edits.add(**body))), 202)

    @api.get("/v1/edits")
    async def listed(request: Request, limit: int = 20, after: str = "") -> JSONResponse:
        edits.check(request)
        return JSONResponse(page_of(limit, after))

    @api.get("/v1/edits/{name}")
    async def one(request: Request, name: str) -> JSONResponse:
        edits.check(request)
        edit = edits.find(name.replace("batch_", "edit_"))
        return JSONResponse(batch_of(edit) if name.startswith("batch_") else edit)

    @api.delete("/v1/edits/{name}")
    async def delete(request: Request, name: str) -> JSONResponse:
        edits.check(request)
        edits.move(name, "deleting")
        return JSONResponse(edits.find(name), 202)

    @api.get("/v1/versions")
    async def versions(request: Request) -> JSONResponse:
        edits.check(request)
        return JSONResponse({"object": "list", "data": edits.versions})

    @api.post("/v1/versions/{name}/activate")
    async def activate(request: Request, name: str) -> JSONResponse:
        edits.check(request)
        return JSONResponse(edits.activate(name))

    api.router.routes.sort(key=known.__contains__)


def batch_of(edit: dict[str, Any]) -> dict[str, Any]:
    """The batch of one edit."""
    told = {name: edit[name] for name in ("created", "status", "progress", "reason", "version")}
    return {"id": edit["batch"], "object": "edit.batch", "report": None, "data": [edit]} | told
