"""Prompts that do not name their subject, found by the words that they share with a text.

Scored by BM25 (Robertson et al. 1994) with each word counted once: the weight of the shared words, a word weighing less
the more prompts hold it. Divided by the prompt's own score it is the part of the prompt that the text asks, and only a
large part counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from onceedit_ray.knowledge.reading import Reading
from onceedit_ray.knowledge.terms import UNLISTED, content, terms, weight

_Row = tuple[str, int]
"""An edit, and which of its prompts."""
_CROWDED = 500
"""Prompts that hold a word at which it finds none by itself: it says too little to reach the bar without others."""


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
        """Let an edit be found by the words of these prompts; those without content are left out."""
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

    def asked_in(self, reading: Reading) -> dict[str, float]:
        """The edits that a text may ask for, to the part of their prompt that it holds, from the bar to 1."""
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

    def _part(self, row: _Row, words: list[str], reading: Reading) -> float:
        total = sum(map(self._weight, self._words[row]))
        return sum(self._weight(word) * reading.hits[word] for word in words) / total

    def _weight(self, word: str) -> float:
        return max(1.0, weight(word) - math.log(len(self._by_word[word])))
