"""Splits a request for several facts into one request for each fact.

The gate was trained on requests for one fact. A request such as "What are the capitals of Australia and of Canada?" is
asked once for each subject, without the others: "What are the capitals of Australia?". This file works on texts; it
uses no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from onceedit_ray.fusion.whole_words import find_whole
from onceedit_ray.knowledge.edit import Edit

_LINK = r"(?:\s*,?\s*(?:and|or|&)\s+|\s*,\s*)"
_LEAD = r"(?:(?:of|in|for|by|from)\s+)?(?:the\s+)?"
_CLAUSES = re.compile(
    r"\s*,?\s*\band\s+(?=(?:who|whom|whose|what|which|where|when|how|in which|the one)\b)", re.IGNORECASE
)
_WHO = re.compile(r"(?:who|what)\s+(?!(?:is|are|was|were|do|does|did|has|have|can)\b)", re.IGNORECASE)


def subjects_in(request: str, edits: Sequence[Edit]) -> list[str]:
    """The subjects of edits that a request names wholly, each once, in the order of the request.

    A subject that stands only inside another one's name does not count.
    """
    places: dict[str, tuple[int, int]] = {}
    for subject in dict.fromkeys(edit.subject.strip() for edit in edits):
        if subject and (found := find_whole(subject, request)):
            places[subject] = found.span()
    whole = [
        subject
        for subject, (start, end) in places.items()
        if not any(other != subject and a <= start and end <= b for other, (a, b) in places.items())
    ]
    return sorted(whole, key=lambda subject: places[subject])


def asked_alone(request: str, subject: str, others: Sequence[str]) -> str:
    """A request without its other subjects; "" if they cannot be left out.

    Of two clauses ("who wrote A, and who wrote B") the one with the subject is kept; from a list the other names are
    removed.
    """
    clauses = [clause.strip() for clause in _CLAUSES.split(request.strip())]
    own = [clause for clause in clauses if find_whole(subject, clause)]
    if len(clauses) > 1 and len(own) == 1 and not any(find_whole(other, own[0]) for other in others):
        return own[0].rstrip("?.!, ") + ("?" if request.strip().endswith("?") else "")
    reduced = request
    for other in others:
        name = re.escape(other)
        without = re.sub(rf"{_LINK}{_LEAD}{name}(?!\w)", "", reduced, count=1, flags=re.IGNORECASE)
        if without == reduced:
            without = re.sub(rf"(?<!\w){name}{_LINK}{_LEAD}", "", reduced, count=1, flags=re.IGNORECASE)
        if without == reduced:
            return ""
        reduced = without
    return reduced if find_whole(subject, reduced) else ""


def told_together(asked: Sequence[tuple[str, Edit]]) -> str:
    """The beginning of a reply that states several facts.

    Args:
        asked: for each fact the request for it alone, and the edit.
    """
    said = [_told(request, edit) for request, edit in asked]
    if all(said):
        return _joined(said)
    return "; ".join(f"{_capital(edit.subject.strip())}: {edit.target_new.strip()}" for _, edit in asked)


def _told(request: str, edit: Edit) -> str:
    """A "who" clause as a statement; "" for any other clause."""
    found = _WHO.match(request)
    return f"{edit.target_new.strip()} {request[found.end() :].rstrip('?.!, ')}" if found else ""


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + f", and {parts[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
