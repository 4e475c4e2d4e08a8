"""Edits, batches and versions as the API returns them, and the request bodies that contain edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.edit_book import BatchRecord, EditRecord, Status

MOST_LISTED = 1000
"""As many edits, or versions, as one call lists."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class EditView(Edit):
    """An edit and its state.

    progress: the share of the current step that is done. reason: why it was refused, queued again or deleted. version:
    the version with which it went live. replaces: the live edits with the same prompt that it replaces.
    """

    id: str
    object: Literal["edit"] = "edit"
    batch: str
    created: int
    status: Status
    progress: Fraction
    reason: str | None
    version: str | None
    replaces: tuple[str, ...] = ()


class BatchView(BaseModel):
    """The edits of one call. report: the scores with which it went live or was refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    object: Literal["edit.batch"] = "edit.batch"
    created: int
    status: Status
    progress: Fraction
    reason: str | None
    version: str | None
    report: dict[str, Any] | None
    data: list[EditView]


class VersionView(BaseModel):
    """A version of the plug-in. parent: the version whose training it continued; null if it was made from the base
    plug-in. report: the scores with which it went live; null if it was made outside the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    object: Literal["version"] = "version"
    created: int
    active: bool
    edits: int
    base_model: str
    parent: str | None
    report: dict[str, Any] | None


class VersionDetail(VersionView):
    """A version with its edits."""

    data: list[Edit]


class DeletedVersion(BaseModel):
    """What is left of a version that was deleted."""

    id: str
    object: Literal["version"] = "version"
    deleted: Literal[True] = True


class EditList(BaseModel):
    """A page of edits, the newest first."""

    object: Literal["list"] = "list"
    data: list[EditView]
    has_more: bool


class VersionList(BaseModel):
    """The newest versions, the newest first."""

    object: Literal["list"] = "list"
    data: list[VersionView]
    has_more: bool


class EditsBody(BaseModel):
    """Several edits in one call."""

    model_config = ConfigDict(extra="forbid")

    edits: Annotated[list[Edit], Field(min_length=1)]


def _many_or_one(body: Any) -> str:
    return "many" if isinstance(body, EditsBody) or (isinstance(body, dict) and "edits" in body) else "one"


EditBody = Annotated[Annotated[EditsBody, Tag("many")] | Annotated[Edit, Tag("one")], Discriminator(_many_or_one)]
"""One edit, or `{"edits": [...]}`."""


def edit_view(record: EditRecord, progress: float) -> EditView:
    """A record as the API returns it."""
    own = record.model_dump(include={"id", "batch", "created", "status", "reason", "version", "replaces"})
    return EditView.model_validate({**record.edit.model_dump(), **own, "progress": progress})


def batch_view(batch: BatchRecord, edits: Sequence[EditView]) -> BatchView:
    """A batch as the API returns it."""
    own = batch.model_dump(include={"id", "created", "status", "progress", "reason", "version", "report"})
    return BatchView.model_validate({**own, "data": list(edits)})


def version_view(version: Version, active: bool) -> VersionView:
    """A version as the API returns it."""
    manifest = version.manifest
    return VersionView(
        id=version.id,
        created=int(manifest.created.timestamp()),
        active=active,
        edits=manifest.edits,
        base_model=manifest.base_model,
        parent=manifest.parents[0] if manifest.parents else None,
        report=manifest.report or None,
    )
