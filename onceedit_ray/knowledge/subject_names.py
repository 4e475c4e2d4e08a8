"""Finds the names of the subjects of edits in a text.

A name is found if words with at least `SHARE` of its weight occur. The weight of a word is `terms.weight`, and is lower
the more names share the word: among many Michaels, "Michael" names nobody. What else the text must contain depends on
the name:

- A name of common words ("Apple", "Our office") needs support, a word of what the edit is about, unless it is written
  as a name (`capitals`), or occurs in one piece and is too long for a chance match.
- Part of a name counts if a word of it is not common, and is not written as part of another name ("New York" does not
  name Deborah York); otherwise it needs support.
- In a long text words of a name count where they stand together, and part of a name needs support.
- A name with signs ("C++"), or of function words alone ("The Who"), is found whole and in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from onceedit_ray.knowledge.capitals import belongs_to_other_name, is_written_as_name
from onceedit_ray.knowledge.reading import TextReading
from onceedit_ray.knowledge.terms import STOP_WORDS, content, is_listed, is_sign, terms, weight

SHARE = 0.5
COMMON = 14.0
"""A name of common words with at least this total weight does not count as common, since a chance match is unlikely."""


@dataclass(eq=False, slots=True)
class Name:
    """One way to call a subject.

    phrase: all of its terms, in order. words: those that it is known by.
    spellings: each spelling as given, with its number of edits. ids: the edits about the name.
    """

    phrase: tuple[str, ...]
    words: tuple[str, ...]
    spellings: dict[str, int] = field(default_factory=dict)
    ids: dict[str, None] = field(default_factory=dict)

    @property
    def in_one_piece(self) -> bool:
        """Whether it is found as a phrase only."""
        return any(map(is_sign, self.phrase)) or all(word in STOP_WORDS for word in self.words)

    @property
    def is_listed(self) -> bool:
        """Whether each of its words is a common one."""
        return all(map(is_listed, self.words))

    @property
    def is_common(self) -> bool:
        """Whether it occurs in texts that are not about it."""
        return self.is_listed and sum(map(weight, self.words)) < COMMON


@dataclass(frozen=True, slots=True)
class Named:
    """A name that occurs in a text.

    strength: the share of its weight that occurs, from `SHARE` to 1, a little less for other forms.
    is_whole: whether all of its words occur.
    needs_support: whether the text must also contain a word of what the edit is about.
    place: the index of a term near the name.
    """

    name: Name
    strength: float
    is_whole: bool
    needs_support: bool
    place: int


def name_words(name: str) -> tuple[str, ...]:
    """The terms that a name is known by: those with content, or all where none has."""
    found = terms(name)
    return content(found) or tuple(dict.fromkeys(found))


class SubjectNames:
    """All names of an index."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, ...], Name] = {}
        self._by_word: dict[str, dict[Name, None]] = {}
        self._weights: dict[str, float] = {}

    def __contains__(self, word: str) -> bool:
        return word in self._by_word

    def add(self, spelling: str, id: str) -> None:
        """Index an edit by this name."""
        phrase = tuple(terms(spelling))
        if not phrase:
            return
        name = self._names.get(phrase)
        if name is None:
            name = self._names[phrase] = Name(phrase, name_words(spelling))
            for word in name.words:
                self._by_word.setdefault(word, {})[name] = None
            self._weigh(name.words)
        if id not in name.ids:
            name.ids[id] = None
            name.spellings[spelling] = name.spellings.get(spelling, 0) + 1

    def drop(self, spelling: str, id: str) -> None:
        """Undo `add`."""
        name = self._names.get(tuple(terms(spelling)))
        if name is None or id not in name.ids:
            return
        del name.ids[id]
        name.spellings[spelling] = name.spellings.get(spelling, 1) - 1
        if not name.spellings[spelling]:
            del name.spellings[spelling]
        if not name.ids:
            del self._names[name.phrase]
            for word in name.words:
                del self._by_word[word][name]
            self._weigh(name.words)

    def named_in(self, reading: TextReading, supported: bool = False) -> Iterator[Named]:
        """The names that occur in a text; `supported`: whether a whole name counts as if the text supported it."""
        matched: dict[Name, list[str]] = {}
        for word in reading.hits:
            for name in self._by_word.get(word, ()):
                matched.setdefault(name, []).append(word)
        for name, words in matched.items():
            if self._share(name, words, reading) >= SHARE:
                named = self._confirm(name, words, reading, supported)
                if named is not None:
                    yield named

    def _confirm(self, name: Name, words: list[str], reading: TextReading, supported: bool) -> Named | None:
        place = 0
        if name.in_one_piece:
            start = reading.phrase(name.phrase)
            if start is None:
                return None
            place = start
        elif reading.is_long:
            words, place = reading.together(words)
        share = self._share(name, words, reading)
        is_whole = len(words) == len(name.words)
        if share < SHARE or (name.is_common and not is_whole):
            return None
        if is_whole and supported:
            return Named(name, share, True, False, place)
        if not is_whole:
            is_told_by_word = not all(map(is_listed, words))
            if is_told_by_word and not reading.is_long and belongs_to_other_name(words, name.phrase, reading.text):
                return None
            return Named(name, share, False, reading.is_long or not is_told_by_word, place)
        if not name.is_listed or is_written_as_name(name.spellings, reading.text):
            return Named(name, share, True, False, place)
        return Named(name, share, True, name.is_common or reading.phrase(name.phrase) is None, place)

    def _share(self, name: Name, words: list[str], reading: TextReading) -> float:
        total = 0.0
        for word in name.words:
            total += self._weights[word]
        matched = 0.0
        for word in words:
            matched += self._weights[word] * reading.hits[word]
        return matched / total

    def _weigh(self, words: tuple[str, ...]) -> None:
        """Update the weights of words whose number of names has changed."""
        for word in words:
            names = self._by_word.get(word)
            if names:
                self._weights[word] = max(1.0, weight(word) - math.log(len(names)))
            else:
                self._by_word.pop(word, None)
                self._weights.pop(word, None)
