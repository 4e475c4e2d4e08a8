"""Editing without training: a reader is trained once, and reads the facts that a version holds (`onceedit_ray.reader`).

An edit is a row among the version's edits. No weight is changed, so an edit takes as long as writing it down, and none
is in the way of another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onceedit_ray.editing.editors import EDITORS, Outcome
from onceedit_ray.knowledge.manifest import Manifest
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.reader.adapter import Adapter, keep_adapter
from onceedit_ray.reader.plugin import READER, write_pointer

if TYPE_CHECKING:
    from onceedit_ray.editing.training import Recipe


@EDITORS.register(READER)
@dataclass(frozen=True)
class ReadFacts:
    """A reader with its facts, which is no version yet.

    recipe: plug-in and edits. adapter: of the reader. outcome: of no epochs.
    """

    recipe: Recipe
    adapter: Adapter
    outcome: Outcome = field(default_factory=lambda: Outcome(complete=True))

    def write(self, folder: Path) -> None:
        """Write to `folder` which reader the version needs."""
        keep_adapter(self.adapter)
        write_pointer(folder, self.adapter)

    def manifest(self, report: dict[str, Any] | None = None) -> Manifest:
        """What the version will say about itself; `report`: what it was accepted for."""
        recipe = self.recipe
        return Manifest(
            id=recipe.id,
            base_model=recipe.config.plugin.model,
            base_digest=recipe.base.digest,
            editor=READER,
            settings=recipe.settings,
            seed=0,
            data_hash=data_hash(recipe.edits),
            edits=len(recipe.edits),
            gate=self.adapter.manifest.figures,
            seconds=self.outcome.seconds,
            report=report or {},
        )
