"""A text as the fact index reads it: its terms, their positions, and the known words that they match.

The text is read once, in time linear in its length, and then used by each part of the index.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence

from onceedit_ray.knowledge.terms import STOP_WORDS, is_listed, terms
from onceedit_ray.knowledge.vocabulary import Vocabulary

LONG = 64
"""Number of terms from which a text counts as long: the words of one name must then stand together."""
NEAR = 32
"""Number of terms on each side that count as near in a long text."""
_TYPED = 200
"""Number of terms at the end of a text in which typing errors are looked for: a user types the question at the end."""
_COMPOUND = 6
"""Number of letters of a word that may begin a compound."""
_FORM, _COMMON_FORM, _SLIP = 0.9, 0.45, 0.8
"""The share of a word's weight that counts for another form of it, for another form that is itself a common word
("children" for "Chile"; a plural counts in full), and for a typing error.
"""


class TextReading:
    """One text.

    terms: its terms, in order.
    hits: each known word that occurs in the text, with a score: 1 for the word itself, less for a form or a typing
        error.

    Args:
        vocabulary: the words that are known.
        is_of_name: whether a known word is part of a name; typing errors are looked for in names only.
    """

    def __init__(self, text: str, vocabulary: Vocabulary, is_of_name: Callable[[str], bool]) -> None:
        self.text = text
        self.terms = terms(text)
        self.is_long = len(self.terms) > LONG
        self.places: dict[str, list[int]] = defaultdict(list)
        for place, term in enumerate(self.terms):
            self.places[term].append(place)
        self.hits: dict[str, float] = {}
        self._sources: dict[str, list[str]] = defaultdict(list)
        for term in self.places:
            for word, closeness in self._known(term, vocabulary, is_of_name):
                self._sources[word].append(term)
                self.hits[word] = max(closeness, self.hits.get(word, 0.0))

    def _known(self, term: str, vocabulary: Vocabulary, is_of_name: Callable[[str], bool]) -> list[tuple[str, float]]:
        if term in STOP_WORDS:
            return [(term, 1.0)] if term in vocabulary else []
        forms = vocabulary.forms(term)
        if forms or is_listed(term) or self.places[term][-1] < len(self.terms) - _TYPED:
            return [(word, _closeness(term, word)) for word in forms]
        return [(word, _SLIP) for word in vocabulary.near(term) if is_of_name(word)]

    def places_of(self, word: str) -> list[int]:
        """The positions of a known word, in any form."""
        sources = self._sources.get(word, [])
        if len(sources) == 1:
            return self.places[sources[0]]
        return sorted(place for term in sources for place in self.places[term])

    def together(self, words: Sequence[str]) -> tuple[list[str], int]:
        """Those of the known words that stand closest together, and a place among them.

        The window is as wide as the words and four terms more, to each side of the rarest of them.
        """
        where = {word: self.places_of(word) for word in words}
        reach = len(words) + 4
        best: tuple[list[str], int] = ([], 0)
        for rare in sorted(words, key=lambda word: len(where[word]))[:2]:
            for place in where[rare]:
                inside = [word for word in words if _any_within(where[word], place, reach)]
                if len(inside) > len(best[0]):
                    best = inside, place
                if len(inside) == len(words):
                    return best
        return best

    def near(self, word: str, place: int) -> float:
        """The score of a known word near a place, 0 if it does not occur there; in a short text, anywhere."""
        closeness = self.hits.get(word, 0.0)
        if closeness and self.is_long and not _any_within(self.places_of(word), place, NEAR):
            return 0.0
        return closeness

    def around(self, place: int | None) -> Sequence[str]:
        """The terms near a place; all of them if the text is short, none if it is long and no place is given."""
        if not self.is_long:
            return self.terms
        return () if place is None else self.terms[max(0, place - NEAR) : place + NEAR + 1]

    def phrase(self, phrase: tuple[str, ...]) -> int | None:
        """The position at which the terms of a phrase follow one another; None if they do not."""
        rare = min(range(len(phrase)), key=lambda offset: len(self.places.get(phrase[offset], ())))
        for place in self.places.get(phrase[rare], ()):
            start = place - rare
            if start >= 0 and tuple(self.terms[start : start + len(phrase)]) == phrase:
                return start
        return None


def _closeness(term: str, word: str) -> float:
    if term == word or _is_compound(term, word):
        return 1.0
    plural = term in (f"{word}s", f"{word}es") or word in (f"{term}s", f"{term}es")
    return _FORM if plural or not is_listed(term) else _COMMON_FORM


def _is_compound(term: str, word: str) -> bool:
    """Whether a term begins with a rare word and continues as another one ("Eiffelturm"), rather than in an ending."""
    return len(word) >= _COMPOUND and len(term) - len(word) >= 3 and term.startswith(word) and not is_listed(word)


def _any_within(places: list[int], place: int, reach: int) -> bool:
    at = bisect_left(places, place - reach)
    return at < len(places) and places[at] <= place + reach
