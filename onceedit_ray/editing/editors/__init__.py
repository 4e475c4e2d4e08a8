"""Editors by name. An editor is one file here and one registry entry.

An entry is called with (model, tokenizer, edits, unrelated prompts, `EditingConfig`, view), with `context`, the run
file's limit of the plug-in's window or None, and has a `run(report)` that changes the model in place and returns an
`Outcome`. To continue from an edited model it is called with two more arguments: the edits that the model has already
learnt, and how many of those an epoch rehearses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from onceedit_ray.registry import Registry


@dataclass(frozen=True)
class Epoch:
    """The figures of one pass over the edits.

    edit_loss, weight_loss: means over the epoch. learnt: share of edits of which every answer token is the most likely
        one. recall: share of edits with w above 0.5. false_alarms: share of unrelated instances with w above 0.5.
    """

    number: int
    edit_loss: float
    weight_loss: float
    learnt: float
    recall: float
    false_alarms: float
    seconds: float


@dataclass
class Outcome:
    """The epochs of an edit, and whether it stopped because everything was learnt."""

    epochs: list[Epoch] = field(default_factory=list)
    complete: bool = False
    seconds: float = 0.0


class Editor(Protocol):
    """A prepared editing run."""

    def run(self, report: Callable[[Epoch], None]) -> Outcome:
        """Edit the model in place; calls `report` after each epoch."""


EDITORS: Registry[Callable[..., Any]] = Registry("editor", __name__)
