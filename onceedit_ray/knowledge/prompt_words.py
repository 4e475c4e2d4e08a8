"""Prompts that do not name their subject, found by the words that they share with a text.

The score is BM25 (Robertson et al. 1994) with each word counted once: the sum of the weights of the shared words, where
a word of many prompts weighs less. The score divided by the prompt's own score is the part of the prompt that the text
asks; an edit is found if this part is large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from onceedit_ray.knowledge.reading import TextReading
from onceedit_ray.knowledge.terms import UNLISTED, content, terms, weight

_Row = tuple[str, int]
"""An edit, and which of its prompts."""
_CROWDED = 500
"""A word that occurs in this many prompts does not find a prompt by itself: its weight alone is below the bar."""


class PromptWords:
    """All such prompts of an index.

    Args:
        bar: the part of a prompt's weight that a text must hold.
    """

    def __init__(self, bar: float) -> None:
        self._bar = bar
        self._words: dict[_Row, tuple[str, ...]] = {}
        self._by_word: dict[str, dict[_Row, None]] = {}

    def add(self, id: str, prompts: Iterable[str]) -> None:
        """Index an edit by the words of these prompts; prompts without content words are left out."""
        for number, prompt in enumerate(prompts):
            words = content(terms(prompt))
            if words:
                self._words[id, number] = words
            for word in words:
                self._by_word.setdefault(word, {})[id, number] = None

    def drop(self, id: str, prompts: Iterable[str]) -> None:
        """Undo `add`."""
        for number, _ in enumerate(prompts):
            for word in self._words.pop((id, number), ()):
                del self._by_word[word][id, number]
                if not self._by_word[word]:
                    del self._by_word[word]

    def asked_in(self, reading: TextReading) -> dict[str, float]:
        """For each edit that a text may ask for, the part of its prompt that the text contains, from the bar to 1."""
        rows: dict[_Row, None] = {}
        for word in reading.hits:
            held = self._by_word.get(word, {})
            if len(held) <= _CROWDED:
                rows.update(held)
        found: dict[str, float] = {}
        for row in rows:
            words = [word for word in self._words[row] if word in reading.hits]
            part = self._part(row, words, reading)
            if part >= self._bar and reading.is_long:
                words, _ = reading.together(words)
                part = self._part(row, words, reading)
            if part >= self._bar and (len(words) > 1 or weight(words[0]) >= UNLISTED):
                found[row[0]] = max(part, found.get(row[0], 0.0))
        return found

    def _part(self, row: _Row, words: list[str], reading: TextReading) -> float:
        total = sum(map(self._weight, self._words[row]))
        return sum(self._weight(word) * reading.hits[word] for word in words) / total

    def _weight(self, word: str) -> float:
        return max(1.0, weight(word) - math.log(len(self._by_word[word])))
