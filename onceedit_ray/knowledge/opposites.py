"""Words of opposite meaning: a question about the beginning of a war does not ask for the fact about its end.

Opposites stand in the same sentences, so a language model places them close together, and the gate confuses them. A
text that has the opposite of a word of an edit's prompt, and not the word itself, is therefore not about the edit.
English only.
"""

from __future__ import annotations

from collections.abc import Iterable

_PAIRS = (
    ("begin begins began begun beginning start starts started starting commence commenced outbreak onset",
     "end ends ended ending finish finishes finished conclude concluded"),
    ("born birth birthplace birthday birthdate", "die dies died death dead"),
    ("founded foundation established establishment inception formed", "dissolved abolished disbanded dissolution"),
    ("open opens opened opening", "close closes closed closing closure"),
    ("arrive arrives arrived arrival", "depart departs departed departure"),
    ("marry married marriage wedding", "divorce divorced"),
    ("buy buys bought buyer", "sell sells sold seller"),
    ("import imports imported", "export exports exported"),
    ("first earliest", "last latest final"),
    ("largest biggest", "smallest"),
    ("highest tallest", "lowest"),
    ("longest", "shortest"),
    ("oldest", "youngest newest"),
    ("hottest warmest", "coldest"),
    ("richest", "poorest"),
    ("maximum", "minimum"),
    ("mother", "father"),
    ("daughter", "son"),
    ("sister", "brother"),
    ("wife", "husband"),
    ("predecessor preceded", "successor succeeded"),
    ("north northern", "south southern"),
    ("east eastern", "west western"),
)  # fmt: skip

_SIDES = {
    word: side * number
    for number, pair in enumerate(_PAIRS, start=1)
    for side, words in zip((1, -1), pair, strict=True)
    for word in words.split()
}


def sides(words: Iterable[str]) -> frozenset[int]:
    """The sides of the pairs that the words belong to: +n and -n are the two sides of the n-th pair."""
    return frozenset(_SIDES[word] for word in words if word in _SIDES)


def are_opposed(asked: frozenset[int], text: frozenset[int]) -> bool:
    """Whether a text has the opposite of a prompt's word and not the word itself; both arguments are results of
    `sides`.
    """
    return any(-side in text and side not in text and -side not in asked for side in asked)
