"""Edits and versions as the API lists them, and the texts that the page shows for each."""

from __future__ import annotations

import datetime
import unicodedata
from typing import Any

from pydantic import BaseModel, ConfigDict

STEPS = ("queued", "training", "evaluating", "live")
UNDER_WAY = ("queued", "training", "evaluating", "deleting")
NOT_DELETABLE = ("deleting", "deleted", "refused")


class ListedEdit(BaseModel):
    """The fields of an edit that the page shows. replaces: ids of the edits whose answer it replaces."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    batch: str
    prompt: str
    target_new: str
    status: str
    progress: float = 0.0
    reason: str | None = None
    version: str | None = None
    replaces: tuple[str, ...] = ()

    @property
    def quoted(self) -> str:
        """The fact, in one line."""
        return f"“{self.prompt}” → “{self.target_new}”"

    @property
    def under_way(self) -> bool:
        """Whether its status will change by itself."""
        return self.status in UNDER_WAY

    @property
    def deletable(self) -> bool:
        """Whether it can be deleted."""
        return self.status not in NOT_DELETABLE

    def place_of(self, step: str) -> str:
        """The state of `step` of `STEPS` for this edit: `past`, `here`, or "" if it is still to come."""
        if step == self.status:
            return "here"
        return "past" if self.status in STEPS and STEPS.index(step) < STEPS.index(self.status) else ""


class ListedVersion(BaseModel):
    """The fields of a version that the page shows. created: seconds since 1970. report: the scores of its judgement."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    created: int
    active: bool
    edits: int
    report: dict[str, Any] | None = None

    @property
    def about(self) -> str:
        """How many edits it knows and when it was made, in the time zone of the page's process."""
        made = datetime.datetime.fromtimestamp(self.created).astimezone()
        return f"{self.edits} edit{'' if self.edits == 1 else 's'} · {made:%d %b %Y, %H:%M %Z}"

    def activation(self, active: ListedVersion | None) -> str:
        """The label of the button that makes it live while `active` is live."""
        return "Roll back" if active is not None and self.created <= active.created else "Activate"

    @property
    def figures(self) -> list[tuple[str, str]]:
        """Name and value of each number in its report: nested names are joined, numbers are rounded."""
        return _figures(self.report or {}, "")


def same_prompt(one: str, other: str) -> bool:
    """Whether two prompts are the same by the server's rule: composed characters, white space as one space."""
    return _composed(one) == _composed(other)


def _composed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _figures(value: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        nested = ((f"{name} · {key}" if name else str(key), inner) for key, inner in value.items())
    elif isinstance(value, list):
        nested = ((f"{name} · {number}", inner) for number, inner in enumerate(value, 1))
    else:
        return [(name.replace("_", " "), _short(value))]
    return [figure for inner_name, inner in nested for figure in _figures(inner, inner_name)]


def _short(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.3f}"
    return str(value)
