"""The words that an index knows, found by the word itself, by another form of it, or by a typing error. This module
does not know what the words belong to.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

from rapidfuzz import process
from rapidfuzz.distance import OSA

STEM = 4
"""Minimum number of letters that two forms of one word share; at least 0.7 of the known word."""
_REMEMBERED = 20_000
"""Size of the cache of forms, which is cleared when the vocabulary changes."""
TYPO_LETTERS = 5
"""Shorter words are not matched with typing errors: too many words are near them."""


class Vocabulary:
    """A multiset of words."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._by_stem: dict[str, dict[str, None]] = defaultdict(dict)
        self._by_start: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
        self._forms: dict[str, list[str]] = {}

    def __contains__(self, word: str) -> bool:
        return word in self._count

    def add(self, words: Iterable[str]) -> None:
        """Increase the count of each word by one."""
        for word in words:
            self._count[word] += 1
            if self._count[word] == 1:
                self._by_stem[_stem(word)][word] = None
                self._forms.clear()
                if len(word) >= TYPO_LETTERS:
                    self._by_start[word[0], len(word)][word] = None

    def drop(self, words: Iterable[str]) -> None:
        """Decrease the count of each word by one, and remove it at zero."""
        for word in words:
            self._count[word] -= 1
            if not self._count[word]:
                del self._count[word]
                self._forms.clear()
                _discard(self._by_stem, _stem(word), word)
                _discard(self._by_start, (word[0], len(word)), word)

    def forms(self, asked: str) -> list[str]:
        """The known words that `asked` is, or is a form of."""
        known = self._forms.get(asked)
        if known is None:
            if len(self._forms) >= _REMEMBERED:
                self._forms.clear()
            known = self._forms[asked] = self._find_forms(asked)
        return known

    def _find_forms(self, asked: str) -> list[str]:
        found = [asked] if asked in self._count else []
        if len(asked) >= STEM and asked.isalpha():
            for length in range(STEM, len(asked) + 1):
                for word in self._by_stem.get(asked[:length], ()):
                    if word != asked and is_form_of(asked, word):
                        found.append(word)
        return found

    def near(self, asked: str) -> list[str]:
        """The known words that `asked` may be a misspelling of: one typing error away, two from eight letters on.

        The first letter must be right. A word of four letters or fewer gives none.
        """
        if len(asked) < TYPO_LETTERS or not asked.isalpha():
            return []
        slips = 1 if len(asked) < 8 else 2
        known: list[str] = []
        for length in range(len(asked) - slips, len(asked) + slips + 1):
            known.extend(self._by_start.get((asked[0], length), ()))
        found = process.extract(asked, known, scorer=OSA.distance, score_cutoff=slips, limit=None)
        return [word for word, _, _ in found]


def is_form_of(asked: str, word: str) -> bool:
    """Whether `asked` is the word, or an inflected or derived form of it.

    A form keeps the stem and changes the ending: "Australian" for "Australia", "Belgian" for "Belgium". It adds three
    letters at most, four to three quarters of the word; and a form that is only the beginning of the word lacks at most
    one letter ("German" for "Germany"), since "India" is no form of "Indiana".
    """
    if asked == word:
        return True
    if len(asked) < STEM or not asked.isalpha() or not asked.startswith(_stem(word)):
        return False
    kept = next((i for i, (a, b) in enumerate(zip(asked, word, strict=False)) if a != b), min(len(asked), len(word)))
    added, lost = len(asked) - kept, len(word) - kept
    if not added:
        return lost <= 1
    return added <= (4 if kept >= 0.75 * len(word) else 3)


def _stem(word: str) -> str:
    """The letters that a form of `word` begins with."""
    return word[: max(STEM, math.ceil(0.7 * len(word)))]


def _discard(groups: dict, key: object, word: str) -> None:
    group = groups.get(key)
    if group is not None:
        group.pop(word, None)
        if not group:
            del groups[key]
