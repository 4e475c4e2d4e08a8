"""The routes for editing while the system serves: edits and versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, Path, Query, Response

from onceedit_ray.errors import UnknownIdError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.living.edit_book import Status
from onceedit_ray.living.edit_views import (
    MOST_LISTED,
    BatchView,
    DeletedVersion,
    EditBody,
    EditList,
    EditsBody,
    EditView,
    VersionDetail,
    VersionList,
    VersionView,
)  # fmt: skip
from onceedit_ray.serving.backend import Backend, Knowledge
from onceedit_ray.serving.errors import ApiError, api_errors
from onceedit_ray.serving.limits import Limits

Id = Annotated[str, Path(max_length=128)]


def add_editing_routes(api: FastAPI, backend: Backend, limits: Limits) -> None:
    """Add the routes under `/v1/edits` and `/v1/versions` to `api`."""

    @api.post("/v1/edits", status_code=202, responses={201: {"model": BatchView, "description": "The edits are live"}})
    async def submit(body: EditBody, response: Response) -> BatchView:
        edits = body.edits if isinstance(body, EditsBody) else [body]
        _check(edits, limits)
        knowledge = _of(backend)
        with api_errors():
            batch = await knowledge.submit(edits)
        response.status_code = 201 if batch.status == "live" else 202
        return batch

    @api.get("/v1/edits")
    async def listed(
        status: Status | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
        after: Annotated[str | None, Query(max_length=128)] = None,
    ) -> EditList:
        with api_errors():
            try:
                return await _of(backend).edits(after, limit, status)
            except UnknownIdError as error:
                raise ApiError(404, str(error), "after", "not_found") from None

    @api.get("/v1/edits/{id}")
    async def found(id: Id) -> EditView | BatchView:
        with api_errors():
            return await _of(backend).found(id)

    @api.delete("/v1/edits/{id}", status_code=202, responses={200: {"description": "The edits are deleted"}})
    async def remove(id: Id, response: Response) -> EditView | BatchView:
        with api_errors():
            removed = await _of(backend).remove(id)
        response.status_code = 200 if removed.status == "deleted" else 202
        return removed

    @api.get("/v1/versions")
    async def versions(limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100) -> VersionList:
        with api_errors():
            found = await _of(backend).versions(limit + 1)
        return VersionList(data=found[:limit], has_more=len(found) > limit)

    @api.get("/v1/versions/{id}")
    async def version(id: Id) -> VersionDetail:
        with api_errors():
            return await _of(backend).version(id)

    @api.delete("/v1/versions/{id}")
    async def remove_version(id: Id) -> DeletedVersion:
        with api_errors():
            return await _of(backend).remove_version(id)

    @api.post("/v1/versions/{id}/activate")
    async def activate(id: Id) -> VersionView:
        with api_errors():
            return await _of(backend).activate(id)


def _of(backend: Backend) -> Knowledge:
    if backend.knowledge is None:
        raise ApiError(501, "this server's knowledge is not edited while it runs", code="not_editable")
    return backend.knowledge


def _check(edits: Sequence[Edit], limits: Limits) -> None:
    if len(edits) > limits.edits:
        raise ApiError(400, f"{len(edits)} edits; {limits.edits} is the most in one call", "edits", "too_many_edits")
    for number, edit in enumerate(edits):
        where = f"edits[{number}]" if len(edits) > 1 else None
        texts = [edit.prompt, edit.target_new, edit.subject, edit.ground_truth, *edit.rephrasings]
        texts += [text for probe in (*edit.locality, *edit.portability) for text in (probe.prompt, probe.answer)]
        if max(map(len, texts)) > limits.edit_chars:
            found = f"a text of {max(map(len, texts))} characters; {limits.edit_chars} is the most in an edit"
            raise ApiError(400, found, where, "edit_too_long")
        probes = max(len(edit.rephrasings), len(edit.locality), len(edit.portability))
        if probes > limits.edit_probes:
            found = f"{probes} probes of one kind; {limits.edit_probes} is the most for an edit"
            raise ApiError(400, found, where, "too_many_probes")
