"""Finds the prompts of edits that occur in a text word for word.

Each prompt is indexed under one of its terms, the one that indexes the fewest prompts, and is compared with the text at
each position of that term.
"""

from __future__ import annotations

from collections.abc import Iterable

from onceedit_ray.knowledge.reading import TextReading
from onceedit_ray.knowledge.selection import normalised
from onceedit_ray.knowledge.terms import content, terms


class StoredPrompts:
    """All prompts of an index."""

    def __init__(self) -> None:
        self._by_term: dict[str, dict[tuple[str, tuple[str, ...]], None]] = {}
        self._whole: dict[tuple[str, ...], dict[str, None]] = {}

    def add(self, id: str, prompts: Iterable[str]) -> None:
        """Index an edit by these prompts."""
        for prompt in prompts:
            phrase = _phrase(prompt)
            self._whole.setdefault(phrase, {})[id] = None
            words = content(phrase)
            # A phrase such as "Who is it?" occurs in texts that do not ask for the edit.
            if len(words) > 1:
                term = min(words, key=lambda word: len(self._by_term.get(word, ())))
                self._by_term.setdefault(term, {})[id, phrase] = None

    def drop(self, id: str, prompts: Iterable[str]) -> None:
        """Undo `add`."""
        for prompt in prompts:
            phrase = _phrase(prompt)
            _discard(self._whole, phrase, id)
            for term in content(phrase):
                _discard(self._by_term, term, (id, phrase))

    def asked_in(self, reading: TextReading) -> dict[str, int]:
        """For each edit whose prompt occurs in a text, the number of terms of that prompt."""
        whole = tuple(reading.terms) or _phrase(reading.text)
        found = dict.fromkeys(self._whole.get(whole, ()), len(whole))
        for term, places in reading.places.items():
            for id, phrase in self._by_term.get(term, ()):
                offset = phrase.index(term)
                if len(phrase) > found.get(id, 0) and any(
                    place >= offset and tuple(reading.terms[place - offset : place - offset + len(phrase)]) == phrase
                    for place in places
                ):
                    found[id] = len(phrase)
        return found


def _phrase(prompt: str) -> tuple[str, ...]:
    """The terms of a prompt; the prompt itself where it has none."""
    return tuple(terms(prompt)) or (normalised(prompt).casefold(),)


def _discard(groups: dict, key: object, member: object) -> None:
    group = groups.get(key)
    if group is not None:
        group.pop(member, None)
        if not group:
            del groups[key]
