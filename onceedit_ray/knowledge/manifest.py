"""The manifest of a version of the plug-in: how it was made, and the checksum of each of its files. This module does
not know where versions are stored.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from onceedit_ray import __version__
from onceedit_ray.errors import StoreError
from onceedit_ray.validation import problems


class StoredFile(BaseModel):
    """Size in bytes and SHA-256 (hexadecimal) of one file of a version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """Everything that is needed to describe a version and to make it again.

    id: the version's name; letters, digits, `.`, `_` and `-`, starting with a letter or digit.
    created: when the edit was made, UTC.
    base_model, base_digest: the plug-in before editing and the digest of its weights.
    editor, settings, seed: how it was edited.
    data_hash: `selection.data_hash` of the edits.
    parents: ids of the versions that this one builds on.
    edits: their number.
    losses: one entry an epoch, name to value.
    gate: the gate's figures, by prompt shape or as the editor reports them.
    seconds: duration of the edit.
    report: the figures for which it was accepted; empty if it was not evaluated.
    files: every other file of the version; filled in by the store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    base_model: str
    base_digest: str
    editor: str
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int
    data_hash: str
    parents: list[str] = Field(default_factory=list)
    edits: int = Field(ge=0)
    losses: list[dict[str, float]] = Field(default_factory=list)
    gate: dict[str, Any] = Field(default_factory=dict)
    seconds: float = Field(ge=0)
    report: dict[str, Any] = Field(default_factory=dict)
    onceedit_version: str = __version__
    files: dict[str, StoredFile] = Field(default_factory=dict)

    @property
    def holds_weights(self) -> bool:
        """Whether the version has weights of its own; a version for a reader has edits only."""
        return "reader" not in self.settings


def dump_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented JSON with a checksum of its own content.

    Raises:
        StoreError: a figure is not finite, because the edit diverged; JSON cannot represent it.
    """
    dumped = manifest.model_dump(mode="json")
    try:
        # Encode and decode once, so that the checksum covers the values as they are read back (string keys, lists).
        content = json.loads(json.dumps(dumped, allow_nan=False))
    except ValueError as error:
        raise StoreError(
            f"version '{manifest.id}': its losses, gate figures or settings hold a number that is not finite; "
            "edit again with a lower learning rate"
        ) from error
    return (json.dumps({**content, "seal": _seal(content)}, indent=2) + "\n").encode()


def load_manifest(source: bytes, where: str) -> Manifest:
    """The manifest in `source`; `where` names its file in errors.

    Raises:
        StoreError: the manifest is cut short, was altered after it was written, or has another release's fields; one
            line.
    """
    try:
        content = json.loads(source.decode())
        altered = content.pop("seal") != _seal(content)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise StoreError(f"{where}: not a whole manifest; restore the version from a copy, or delete it") from error
    if altered:
        raise StoreError(f"{where}: altered after it was written; restore the version from a copy, or delete it")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        release = content.get("onceedit_version")
        raise StoreError(f"{where}: {problems(error, most=1)}; read it with onceedit {release}") from error


def _seal(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
