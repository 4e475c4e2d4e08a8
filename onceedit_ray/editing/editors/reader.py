"""Editing without training: a reader is trained once, and reads the facts in a version (`onceedit_ray.reader`).

An edit is one of the version's rows. No weights change, so an edit takes only the time of writing it, and edits do not
interfere with each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onceedit_ray.editing.editors import EDITORS, Outcome
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.manifest import Manifest
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.reader.adapter import Adapter, keep_adapter
from onceedit_ray.reader.plugin import READER, write_pointer


@EDITORS.register(READER)
@dataclass(frozen=True)
class ReadFacts:
    """A reader with its facts, not yet committed as a version.

    id: of the version. base_model: the plug-in, as the run file names it. edits: its facts. settings: for the manifest.
        adapter: of the reader. outcome: without epochs.
    """

    id: str
    base_model: str
    edits: tuple[Edit, ...]
    settings: dict[str, Any]
    adapter: Adapter
    outcome: Outcome = field(default_factory=lambda: Outcome(complete=True))

    def write(self, folder: Path) -> None:
        """Write into `folder` which reader the version needs."""
        keep_adapter(self.adapter)
        write_pointer(folder, self.adapter)

    def manifest(self, report: dict[str, Any] | None = None) -> Manifest:
        """The manifest of the version; `report`: the figures for which it was accepted."""
        return Manifest(
            id=self.id,
            base_model=self.base_model,
            base_digest=self.adapter.manifest.base_digest,
            editor=READER,
            settings=self.settings,
            seed=0,
            data_hash=data_hash(self.edits),
            edits=len(self.edits),
            gate=self.adapter.manifest.figures,
            seconds=self.outcome.seconds,
            report=report or {},
        )
