"""Editing without training: a reader is trained once, and reads the facts that a version holds (`onceedit_ray.reader`).

An edit is a row among the version's edits. No weight is changed, so an edit takes as long as writing it down, and none
is in the way of another.
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
    """A reader with its facts, which is no version yet.

    id: of the version. base_model: the plug-in, as the run file names it. edits: what it knows. settings: what the
    version says about how it was made. adapter: of the reader. outcome: of no epochs.
    """

    id: str
    base_model: str
    edits: tuple[Edit, ...]
    settings: dict[str, Any]
    adapter: Adapter
    outcome: Outcome = field(default_factory=lambda: Outcome(complete=True))

    def write(self, folder: Path) -> None:
        """Write to `folder` which reader the version needs."""
        keep_adapter(self.adapter)
        write_pointer(folder, self.adapter)

    def manifest(self, report: dict[str, Any] | None = None) -> Manifest:
        """What the version will say about itself; `report`: what it was accepted for."""
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
