"""Sentences that name somebody or something first and say afterwards who or what it is: "Canberra, the capital of
Australia, …", "William Shakespeare wrote Romeo and Juliet".

Where the answer of a fact is such a name, the gate along the text is of no use: at the name nothing has been said about
the fact. The rest of the sentence, read as a request ("the capital of Australia"), shows it afterwards.

This file works on texts; it uses no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from onceedit_ray.knowledge.terms import STOP_WORDS

MOST_REST = 80
"""Number of characters of the rest of a sentence that are read."""

SHORTEST = 3
"""Number of letters of a name: "Je", "Il" and "Er" begin sentences in other languages."""

_CAPITAL = r"(?:[A-Z]\.|[A-Z\u00c0-\u00de][\w'’\-]*)"
_SENTENCE = re.compile(
    r"(?:^|(?<=[.!?:]\s)|(?<=,\sand\s)|(?<=\n)|(?<=\n[-*]\s))(?:(?:Yes|No|Well|Sure|Actually|Of course)[,.!]\s+)?"
    rf"(?P<name>{_CAPITAL}(?:\s+(?:(?:of|the|van|von|da|de|del|di)\s+)?{_CAPITAL})*)(?P<rest>,?\s+(?:(?!,\sand\s)[^.!?\n])*|,?)"
    rf"(?P<end>[.!?\n])?"
)


_OPENERS = frozenset(
    """absolutely additionally also besides finally first furthermore great hello hence hi however indeed instead
    meanwhile moreover nevertheless next now no ok okay otherwise overall please second sorry still sure thanks then
    therefore third thus today well yes yesterday""".split()
)


@dataclass(frozen=True)
class NameFirst:
    """A name at the beginning of a sentence.

    start: characters of the text before it. name: the name. rest: what follows, up to the end of the sentence, of an
        apposition, of a clause before "and", or `MOST_REST` characters. is_complete: whether the text goes that far.
    """

    start: int
    name: str
    rest: str
    is_complete: bool


def names_first(text: str, start: int, ended: bool) -> Iterator[NameFirst]:
    """The names that begin a sentence of a text, or a clause after "and", from character `start` on.

    ended: whether the text is complete.
    """
    for found in _SENTENCE.finditer(text):
        name, rest = found["name"], found["rest"]
        is_cut = not ended and not rest and found.end() == len(text)  # "Can" may become "Canberra"
        if found.start("name") < start or not (is_cut or _is_name(name)):
            continue
        is_complete = ended or found.end("rest") < len(text) or len(rest) >= MOST_REST
        said, comma, _ = rest.removeprefix(",").partition(",")
        if rest.startswith(","):  # an apposition describes the name only if a second comma ends it
            if is_complete and not comma:
                continue
            rest, is_complete = said, bool(comma)
        if (rest.strip() and not rest.strip()[0].islower()) or (is_complete and not rest.strip()):
            continue
        yield NameFirst(found.start("name"), name, rest.strip(" ,")[:MOST_REST], is_complete)


def _is_name(text: str) -> bool:
    """Whether capitalised words at the beginning of a sentence are more likely a name than an opening word."""
    first, *more = text.casefold().split()
    if text.endswith(("'s", "’s")) or len(text) < SHORTEST:
        return False
    return first not in STOP_WORDS and first not in _OPENERS and (bool(more) or not first.endswith(("ly", "ed", "ing")))
