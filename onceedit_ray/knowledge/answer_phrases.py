"""Finds the edits whose answer occurs in a text word for word: a reversed question names it, and not the subject."""

from __future__ import annotations

from collections.abc import Iterator

from onceedit_ray.knowledge.reading import TextReading
from onceedit_ray.knowledge.terms import terms

_LONGEST = 8
"""Terms of an answer; a longer one is not looked for."""


class AnswerPhrases:
    """All answers of an index."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, ...], dict[str, None]] = {}

    def add(self, id: str, answer: str) -> None:
        """Index an edit by its answer."""
        phrase = tuple(terms(answer))
        if 0 < len(phrase) <= _LONGEST:
            self._ids.setdefault(phrase, {})[id] = None

    def drop(self, id: str, answer: str) -> None:
        """Undo `add`."""
        phrase = tuple(terms(answer))
        ids = self._ids.get(phrase, {})
        ids.pop(id, None)
        if not ids:
            self._ids.pop(phrase, None)

    def named_in(self, reading: TextReading) -> Iterator[str]:
        """The ids of the edits whose answer occurs in a text; an id may occur twice."""
        for start in range(len(reading.terms)):
            for length in range(1, min(_LONGEST, len(reading.terms) - start) + 1):
                yield from self._ids.get(tuple(reading.terms[start : start + length]), ())
