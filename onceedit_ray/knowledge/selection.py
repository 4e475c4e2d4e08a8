"""Selects the edits to make: drops repeats, settles conflicts, draws a sample.

This module does not know where the edits came from.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal, get_args

from onceedit_ray.errors import ConfigError, ConflictError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.prompt_shapes import unwrap

OnConflict = Literal["error", "first", "last", "first_per_subject"]

_CONFLICTS_SHOWN = 3


def select(
    edits: Sequence[Edit],
    limit: int | None = None,
    seed: int | None = None,
    on_conflict: OnConflict = "error",
    same: Callable[[str], str] | None = None,
) -> list[Edit]:
    """Distinct edits, at most `limit` of them, in the order of the file.

    Repeats and conflicts are settled over the whole file before sampling (metrics.md), so that a sample never
    depends on which of two answers it happened to meet. Of several edits with one prompt and one answer, the first
    stays, with its own probes.

    Args:
        limit: maximum number of edits; None for all.
        seed: None takes the first `limit`. A number takes a sample that is the same on every machine and for every
            order of the file, and that contains the smaller samples of the same seed.
        on_conflict: what happens when one prompt has several answers: "error" refuses, "first" and "last" keep the
            first or the last answer. A benchmark known to hold conflicts is read with "first". "first_per_subject"
            keeps one edit of each subject, for data that say the same of a subject in other words with another answer.
        same: a key function; prompts with equal keys are the same prompt. If not given, prompts are the same that ask
            the same question (`unwrap`) in the same words, as `normalised` compares them.

    Raises:
        ConflictError: naming the first prompts and their answers, where `on_conflict` is "error".
        ConfigError: `limit` is below 1 or `on_conflict` is unknown.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; it must be at least 1, or left out for all edits")
    distinct = _distinct(edits, on_conflict, same or _question)
    if limit is None or limit >= len(distinct):
        return distinct
    if seed is None:
        return distinct[:limit]
    drawn = sorted(range(len(distinct)), key=lambda index: _rank(distinct[index], seed))[:limit]
    return [distinct[index] for index in sorted(drawn)]


def data_hash(edits: Sequence[Edit]) -> str:
    """SHA-256 (hexadecimal) over the edits as canonical JSON.

    Order counts, because training sees it. Fields at their default are left out, so that a field added to `Edit` later
    does not change the hashes of older data.
    """
    rows = [edit.model_dump(mode="json", exclude_defaults=True) for edit in edits]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def normalised(text: str) -> str:
    """The text by which prompts, and answers, are compared: runs of whitespace as one space, composed characters.

    Two spellings that look alike are one prompt. Case is kept, because it changes what is asked ("What does US
    stand for?", "What does us stand for?") and because models read the two differently.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def changed(known: Sequence[Edit], added: Sequence[Edit], gone: Collection[Edit]) -> tuple[list[Edit], list[Edit]]:
    """Those of `known` that stay, and those of `added` that are new: an edit replaces the one of the same question."""
    new = [edit for edit in added if edit not in known]
    asked = {question_key(edit.prompt) for edit in new}
    return [edit for edit in known if edit not in gone and question_key(edit.prompt) not in asked], new


def question_key(text: str) -> str:
    """The text by which questions to a served system are compared: as `normalised`, without case or a prompt shape.

    Users of a served system write capitals or not and expect the same answer, so case is ignored there. The prompts of
    a run file keep their case.
    """
    return normalised(_question(text).casefold())


def _question(prompt: str) -> str:
    return normalised(unwrap(prompt))


def _distinct(edits: Iterable[Edit], on_conflict: OnConflict, same: Callable[[str], str]) -> list[Edit]:
    if on_conflict not in get_args(OnConflict):
        known = ", ".join(f"'{name}'" for name in get_args(OnConflict))
        raise ConfigError(f"on_conflict is '{on_conflict}'; it must be one of {known}")
    kept: dict[str, Edit] = {}
    answers: dict[str, dict[str, str]] = {}
    for edit in edits:
        prompt, answer = same(edit.prompt), normalised(edit.target_new)
        answers.setdefault(prompt, {}).setdefault(answer, edit.target_new)
        held = kept.setdefault(prompt, edit)
        if on_conflict == "last" and normalised(held.target_new) != answer:
            kept[prompt] = edit
    conflicts = [(kept[prompt].prompt, list(given.values())) for prompt, given in answers.items() if len(given) > 1]
    if conflicts and on_conflict == "error":
        raise _conflict_error(conflicts)
    if on_conflict == "first_per_subject":
        return _first_per_subject(kept.values())
    return list(kept.values())


def _first_per_subject(edits: Iterable[Edit]) -> list[Edit]:
    """The first edit of each subject; an edit that names no subject stays."""
    subjects: set[str] = set()
    chosen = []
    for edit in edits:
        subject = question_key(edit.subject)
        if not subject or subject not in subjects:
            chosen.append(edit)
        subjects.add(subject)
    return chosen


def _conflict_error(conflicts: list[tuple[str, list[str]]]) -> ConflictError:
    shown = "; ".join(
        f"{_quoted(prompt)} has the answers {' and '.join(map(_quoted, answers))}"
        for prompt, answers in conflicts[:_CONFLICTS_SHOWN]
    )
    others = len(conflicts) - _CONFLICTS_SHOWN
    more = f"; and {others} more such prompt{'s' if others > 1 else ''}" if others > 0 else ""
    return ConflictError(
        f"conflicting edits: {shown}{more}; keep one answer for each, or set on_conflict to 'last' to let the last win"
    )


def _quoted(text: str) -> str:
    return json.dumps(normalised(text), ensure_ascii=False)


def _rank(edit: Edit, seed: int) -> bytes:
    """A pseudo-random rank that depends only on seed and prompt, not on Python's random generator."""
    return hashlib.sha256(f"{seed}\n{normalised(edit.prompt)}".encode()).digest()
