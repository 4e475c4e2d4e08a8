"""The data that a run file names: the edits to make, and the prompts that no edit is about.

This module does not know what the edits or the prompts are used for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onceedit_ray.config import KnowledgeConfig
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.prompt_files import read_prompts, shipped_prompts
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.knowledge.selection import select

HELD_OUT = 10
"""Every tenth shipped prompt is kept out of training, for the gate's false alarms and drift where no file is given."""


def selected_edits(config: KnowledgeConfig) -> list[Edit]:
    """The edits a run file names, deduplicated and sampled; raises `DataError` or `ConflictError`."""
    if config.path is None:
        return []
    return select(read_edits(config.path, config.format), config.limit, config.seed, config.on_conflict)


def unrelated_prompts(files: Sequence[Path | str]) -> list[list[str]]:
    """Prompts for which the gate learns to stay closed, by origin: each file, and the shipped ones not held out."""
    pools = [read_prompts(file) for file in files]
    return [*pools, [prompt for index, prompt in enumerate(shipped_prompts()) if index % HELD_OUT]]


def general_prompts(file: Path | str | None, limit: int) -> list[str]:
    """Prompts for drift and the gate's false alarms: a file's, or the shipped ones held out of training."""
    prompts = read_prompts(file) if file else shipped_prompts()[::HELD_OUT]
    return prompts[:limit]
