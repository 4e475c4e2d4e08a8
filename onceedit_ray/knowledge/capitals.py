"""Uses capital letters to decide whether a text names something. A text without capitals gives no evidence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from onceedit_ray.knowledge.terms import STOP_WORDS, is_listed, terms

_TITLES = frozenset(
    "mr mrs ms miss dr sir lady lord dame prof professor president king queen prince princess saint st captain".split()
)
_INSIDE = r"[^\W_][,;]?\s+"
"""A word of the same sentence, and the space behind it."""


def is_written_as_name(spellings: Iterable[str], text: str) -> bool:
    """Whether a name of common words occurs in the text as a name, and not as ordinary words.

    The sign is a capital or a digit behind the first letter ("Source Code", "U2", "The Edge"), or a capital that does
    not begin a sentence ("at Apple").
    """
    for spelling in spellings:
        if spelling not in text:
            continue
        inner = any(letter.isupper() or letter.isdigit() for letter in spelling[1:])
        if not inner and not spelling[0].isupper():
            continue
        before = r"(?<!\w)" if inner else _INSIDE
        if re.search(rf"{before}{re.escape(spelling)}(?!\w)", text):
            return True
    return False


def belongs_to_other_name(words: Sequence[str], phrase: Sequence[str], text: str) -> bool:
    """Whether the words of a name always occur next to a capitalised word that is not part of the name.

    Titles, function words and the first word of a sentence do not count as such words.

    Args:
        words: the words of the name that occur in the text.
        phrase: all terms of the name.
    """
    seen = False
    for word in words:
        if is_listed(word):
            continue
        for match in re.finditer(rf"(?<!\w){re.escape(word)}(?:'s|\u2019s)?(?!\w)", text, re.IGNORECASE):
            if not match[0][0].isupper():
                return False
            seen = True
            left = re.search(rf"{_INSIDE}([^\W_]+)[ -]$", text[max(0, match.start() - 80) : match.start()])
            right = re.match(r"[ -]([^\W_]+)", text[match.end() : match.end() + 40])
            if not any(beside and _is_name(beside[1], phrase) for beside in (left, right)):
                return False
    return seen


def _is_name(beside: str, phrase: Sequence[str]) -> bool:
    found = terms(beside)
    return (
        beside[0].isupper()
        and not any(term in STOP_WORDS or term in _TITLES for term in found)
        and not any(term in phrase for term in found)
    )
